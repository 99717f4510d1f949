from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.victim import ModelStack, Victim
from tests.attacks.checks import bed
from unlearning.fine_tune import FineTune
from unlearning.first_order import FirstOrder
from unlearning.gradient_ascent import GradientAscent
from unlearning.learning import plain_learning
from unlearning.procedure import Differentiable, Procedure, forget
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.task import Request, Task, as_weights, submitted_copies

ALL = [Retrain(), FineTune(), GradientAscent(), FirstOrder(), SecondOrder()]


@given(st.lists(st.sets(st.integers(0, 299), min_size=1, max_size=20), min_size=1, max_size=4))
def test_requests_become_rows_of_zeros_and_ones(requests: list[set[int]]) -> None:
    weights = as_weights([Request(tuple(each)) for each in requests], bed(0).task.records)
    assert weights.dtype == torch.float64
    for row, each in zip(weights, requests, strict=True):
        assert set(row.nonzero()[:, 0].tolist()) == each
        assert row.sum() == len(each)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request(()), "empty"),
        (Request((300,)), "records 0 to 299"),
        (Request((0, -1)), "records 0 to 299"),
        (Request((3, 3)), "twice"),
        (Request((0,), Examples(torch.zeros(2, 10), torch.zeros(2).long())), "as many copies"),
        (Request((0,), Examples(torch.zeros(1, 9), torch.zeros(1).long())), "as many copies"),
        (Request((0,), Examples(torch.full((1, 10), torch.nan), torch.zeros(1).long())), "not finite"),
        (Request((0,), Examples(torch.full((1, 10), torch.inf), torch.zeros(1).long())), "not finite"),
        (Request((0,), Examples(torch.zeros(1, 10), torch.full((1,), 7))), "label outside 0 to 2"),
    ],
)
@pytest.mark.parametrize("procedure", ALL, ids=lambda p: type(p).__name__)
def test_malformed_requests_are_refused(procedure: Procedure, request_: Request, sentence: str) -> None:
    of = bed(0)
    with pytest.raises(UserError, match=sentence):
        forget(procedure, of.task, of.victim, request_, 0)


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


def test_only_differentiable_procedures_have_a_gradient() -> None:
    for procedure in ALL:
        assert isinstance(procedure, Procedure)
        assert isinstance(procedure, Differentiable) == procedure.differentiable
    assert [p.differentiable for p in ALL] == [True, False, True, True, True]
    assert [p.stochastic for p in ALL] == [True, True, False, False, False]


class Leaves(Procedure):
    """Writes what has to be written, and forgets nothing."""

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        return victim.copies(len(forget_weights))


def test_what_a_procedure_does_not_say_is_the_cautious_answer() -> None:
    """No gradient, judged with fresh seeds, not exact; it learns as the recipe says, and records nothing."""
    of, leaves = bed(0), Leaves()
    assert (leaves.differentiable, leaves.stochastic, leaves.exact, leaves.irreproducible) == (
        False,
        True,
        False,
        False,
    )
    assert torch.equal(leaves.learn(of.task, 3).flat(), plain_learning(of.task, 3).flat())
    assert leaves.architecture(of.task) is of.task.build
    assert leaves.recorded(of.task, 1000) == 0
    assert "smaller" in leaves.remedy.format(leaves)
    with pytest.raises(TypeError, match="forget"):
        Procedure()  # type: ignore[abstract]
