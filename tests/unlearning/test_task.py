"""What a procedure is given: the task, the requests, and their weights and copies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.examples import Examples
from tests.attacks.checks import bed
from unlearning.first_order import FirstOrder
from unlearning.procedure import forget
from unlearning.task import Request, as_weights, submitted_copies


@given(st.lists(st.sets(st.integers(0, 299), min_size=1, max_size=20), min_size=1, max_size=4))
def test_requests_become_rows_of_zeros_and_ones(requests: list[set[int]]) -> None:
    weights = as_weights([Request(tuple(each)) for each in requests], bed(0).task.records)
    assert weights.dtype == torch.float64
    for row, each in zip(weights, requests, strict=True):
        assert set(row.nonzero()[:, 0].tolist()) == each
        assert row.sum() == len(each)


def test_a_record_cannot_leave_twice() -> None:
    of = bed(0)
    task = of.task.without(Request((4, 5)))
    with pytest.raises(UserError, match="deleted before"):
        forget(FirstOrder(), task, of.victim, Request((5, 6)), 0)
    assert of.task.forgotten is None
    again = task.without(Request((6,)))
    assert again.forgotten is not None
    assert again.forgotten.nonzero()[:, 0].tolist() == [4, 5, 6]


def test_total_counts_earlier_deletions() -> None:
    task = replace(bed(0).task, forgotten=torch.arange(300) < 2)
    deleted = torch.zeros(2, 300, dtype=torch.float64)
    deleted[0, 1], deleted[1, 7] = 0.5, 0.25
    total = task.total(deleted)
    assert total[0, :2].tolist() == [1, 1]
    assert total[1, [0, 1, 7]].tolist() == [1, 1, 0.25]


def test_copies_take_the_place_of_the_records() -> None:
    records = bed(0).task.records
    copies = submitted_copies(Request((7, 3), Examples(torch.ones(2, 10), torch.tensor([0, 1]))), records)
    assert copies is not None
    assert copies.x.dtype == torch.float64
    assert copies.y[[7, 3]].tolist() == [0, 1]
    untouched = [i for i in range(300) if i not in (3, 7)]
    assert torch.equal(copies.x[untouched], records.x[untouched])
    assert submitted_copies(Request((1,)), records) is None
