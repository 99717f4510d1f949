from __future__ import annotations

import pytest
import torch

from data.errors import UserError
from data.examples import Examples
from models.gradients import objective_gradient, per_example_gradients
from models.solver import Solver
from tests.attacks.checks import bed
from tests.testbed import LAMBDA, TRAINING
from unlearning.procedure import Request, forget
from unlearning.second_order import SecondOrder

EXACT = Solver(tolerance=1e-12)


def hessian(of, theta: torch.Tensor, deleted: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    x = torch.cat([of.task.records.x, torch.ones(TRAINING, 1, dtype=torch.float64)], dim=1)

    def objective(flat: torch.Tensor) -> torch.Tensor:
        logits = x @ torch.cat([flat[:30].reshape(3, 10), flat[30:, None]], dim=1).T
        loss = torch.nn.functional.cross_entropy(logits, of.task.records.y, reduction="none")
        return ((1 - deleted) * loss).sum() / TRAINING + LAMBDA / TRAINING / 2 * flat @ flat

    return torch.autograd.functional.hessian(objective, theta)


@pytest.mark.parametrize("retained", [True, False])
@pytest.mark.parametrize("stationary", [True, False])
def test_newton_step_on_the_retained_objective(retained: bool, stationary: bool) -> None:
    """theta - H^{-1} grad F(theta; w), at the optimum and away from it, with a dense Hessian."""
    of = bed(0)
    victim = of.victim if stationary else of.victim.moved(0.05 * torch.ones(1, 33, dtype=torch.float64))[0]
    deleted = torch.zeros(TRAINING, dtype=torch.float64)
    deleted[:15] = 1
    h = hessian(of, victim.flat(), deleted if retained else 0 * deleted)
    slope = objective_gradient(victim, of.task.records, deleted[None], LAMBDA / TRAINING)[0]
    expected = victim.flat() - torch.linalg.solve(h, slope)
    procedure = SecondOrder(solver=EXACT, retained_curvature=retained)
    found = forget(procedure, of.task, victim, Request(tuple(range(15))), 0)
    assert (found.flat() - expected).abs().max() < 1e-9


def test_copies_enter_the_gradient_and_not_the_curvature() -> None:
    of, request = bed(0), tuple(range(5))
    copies = Examples(of.task.records.x[:5] + 0.3, of.task.records.y[:5])
    deleted = torch.zeros(TRAINING, dtype=torch.float64)
    deleted[:5] = 1
    h = hessian(of, of.victim.flat(), deleted)
    expected = of.victim.flat() + torch.linalg.solve(h, per_example_gradients(of.victim, copies).sum(0) / TRAINING)
    found = forget(SecondOrder(solver=EXACT), of.task, of.victim, Request(request, copies), 0)
    assert (found.flat() - expected).abs().max() < 1e-8


def test_earlier_deletions_stay_deleted() -> None:
    """A second step on what is left equals one Newton step from the same model on the union."""
    of = bed(0)
    task = of.task.without(Request((1, 2)))
    second = forget(SecondOrder(solver=EXACT), task, of.victim, Request((3,)), 0)
    union = forget(SecondOrder(solver=EXACT), of.task, of.victim, Request((1, 2, 3)), 0)
    assert (second.flat() - union.flat()).abs().max() < 1e-10


def test_an_unreached_tolerance_is_an_error() -> None:
    of = bed(0)
    non_blocking = SecondOrder(solver=Solver(tolerance=1e-12, max_iterations=1))
    with pytest.raises(UserError, match="relative residual"):
        forget(non_blocking, of.task, of.victim, Request((1,)), 0)
