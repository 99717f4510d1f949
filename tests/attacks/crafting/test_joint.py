"""The shortest request that reaches its goal: bisection against trying every prefix."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attacks.crafting import joint
from attacks.crafting.attack import AttackResult
from attacks.crafting.joint import prefix, shortest
from data.examples import Examples
from unlearning.procedure import Request

RECORDS = (7, 3, 11, 0, 5, 9)


@pytest.mark.parametrize("needed", range(1, len(RECORDS) + 2))
def test_it_is_the_shortest_prefix_that_reaches(needed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a goal that `needed` records reach; one that is never reached leaves the request as it is."""
    tried: list[int] = []

    def length(white_box: Any, goal: int, request: Request) -> torch.Tensor:
        tried.append(len(request))
        return torch.tensor([float(len(request))])

    monkeypatch.setattr(joint, "predicted_after", length)
    objective: Any = SimpleNamespace(rank=lambda value: -value)
    given = AttackResult(Request(RECORDS), -6.0, (0.0, -6.0))
    [found] = shortest(SimpleNamespace(), objective, [given], lambda value: value >= needed)  # type: ignore[arg-type]
    reaching = [k for k in range(1, len(RECORDS) + 1) if k >= needed]
    assert found.request.indices == RECORDS[: min(reaching, default=len(RECORDS))]
    assert found.objective == -len(found.request)
    assert found.curve == given.curve
    assert len(tried) <= 4  # the whole, and ceil(log2(6)) halvings


def test_a_prefix_keeps_the_copies_of_its_records() -> None:
    copies = Examples(torch.arange(12.0).reshape(6, 2), torch.arange(6))
    part = prefix(Request(RECORDS, copies), 2)
    assert part.indices == RECORDS[:2]
    assert part.examples is not None
    assert torch.equal(part.examples.x, copies.x[:2])
    assert torch.equal(part.examples.y, copies.y[:2])
    assert prefix(Request(RECORDS), 2).examples is None
