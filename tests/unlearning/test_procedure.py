"""The role of an unlearning procedure: what it must say, what it need not, and which requests are refused."""

from __future__ import annotations

import pytest
import torch
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
from unlearning.task import Request, Task

ALL = [Retrain(), FineTune(), GradientAscent(), FirstOrder(), SecondOrder()]


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
