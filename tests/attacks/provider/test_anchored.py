"""Substitutes for forgotten records, against the plain loops over positions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from attacks.provider.anchored import Forgotten, intervals

GONE = torch.tensor([2, 5, 6])
MASK = torch.zeros(9, dtype=torch.bool)
MASK[GONE] = True
FORGOTTEN = Forgotten(MASK, GONE, (~MASK).nonzero()[:, 0])
SUBSTITUTES = torch.tensor([[0, 1], [3, 4], [8, 7]])  # of every record that is gone, two choices


def test_batches_have_substitutes_in_the_place_of_what_is_gone_and_are_else_the_same() -> None:
    batch = torch.tensor([6, 1, 2, 2, 8, 5])
    place = {int(record): row for row, record in enumerate(GONE)}
    for choice, found in enumerate(FORGOTTEN.replaced(batch, SUBSTITUTES)):
        wanted = [int(SUBSTITUTES[place[each], choice]) if each in place else each for each in batch.tolist()]
        assert found.tolist() == wanted
        assert torch.equal(FORGOTTEN.mapping(SUBSTITUTES[:, choice])[batch], found)
    assert batch.tolist() == [6, 1, 2, 2, 8, 5]  # the log's own batch is left alone


def test_a_step_touches_what_is_gone_if_its_batch_has_any() -> None:
    steps: list[Any] = [SimpleNamespace(batch=torch.tensor(each)) for each in ([0, 1], [3, 8], [4, 6])]
    assert FORGOTTEN.touches(steps)
    assert not FORGOTTEN.touches(steps[:2])
    assert not FORGOTTEN.touches([])


def test_intervals_go_from_state_to_state_and_have_every_step_once() -> None:
    steps = [SimpleNamespace(number=k, state=f"s{k}" if k % 3 == 0 or k == 7 else None) for k in range(8)]
    log: Any = SimpleNamespace(read=lambda first: iter(steps[first:]))
    found = [(before, [step.number for step in each]) for before, each in intervals(log)]
    assert found == [("s0", [1, 2, 3]), ("s3", [4, 5, 6]), ("s6", [7])]
    assert [(before, [step.number for step in each]) for before, each in intervals(log, 3)] == found[1:]
