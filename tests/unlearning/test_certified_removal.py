"""The removal step, what it leaves over, and its gradient."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from data.randomness import generator
from models.gradients import per_example_gradients
from models.logistic import Logistic
from models.mlp import MLP
from models.solver import Solver
from models.training import Training
from models.victim import Victim
from tests.attacks.checks import bed
from tests.testbed import LAMBDA, TRAINING
from tests.unlearning.certified_problems import digits, first, one, perturbed_slope, removal
from unlearning.certification.softmax_regression import design, remainder_bound, spectral_norm, worst_case_bound
from unlearning.certified_removal import CertifiedRemoval, removal_step
from unlearning.procedure import Request, Task, forget


def curvature(task: Task, model: Victim, deleted: Tensor) -> Tensor:
    """The Hessian of F at the model, by autograd."""
    x, classes = design(model, task.records), model.parameters["linear.bias"].numel()

    def value(flat: Tensor) -> Tensor:
        weights, bias = flat[:-classes].reshape(classes, -1), flat[-classes:]
        logits = x[:, :-1] @ weights.T + bias
        losses = torch.nn.functional.cross_entropy(logits, task.records.y, reduction="none")
        return ((1 - deleted) * losses).mean() + task.training.weight_decay / 2 * flat @ flat

    return torch.func.hessian(value)(model.flat())


def test_one_removal_of_ridge_regression_is_retraining() -> None:
    """A quadratic loss has no remainder: agreement to 1e-10 through the step of the procedure."""
    rng = generator(0, "ridge")
    x, y = (torch.randn(50, *shape, generator=rng, dtype=torch.float64) for shape in ((8,), ()))
    keep = (torch.arange(50) >= 12).double()

    def matrix(kept: Tensor) -> Tensor:
        return (kept[:, None] * x).T @ x / 50 + 0.01 * torch.eye(8, dtype=torch.float64)

    def minimum(kept: Tensor) -> Tensor:
        return torch.linalg.solve(matrix(kept), x.T @ (kept * y) / 50)

    before = minimum(torch.ones(50, dtype=torch.float64))
    leaving = ((1 - keep) * (x @ before - y)) @ x
    step = removal_step(lambda v: torch.linalg.solve(matrix(keep), v.T).T, leaving[None], 50)[0]
    assert (before + step - minimum(keep)).abs().max() < 1e-10


@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_the_step_is_newton_s_on_the_retained_objective(sigma: float) -> None:
    """theta - H^{-1} grad (F + <b, theta>/n) at the stationary point, with a dense Hessian; 1e-10."""
    task = replace(bed(0).task, training=Training(optimizer="newton", weight_decay=LAMBDA / TRAINING, tolerance=1e-14))
    victim = removal(sigma=sigma).learn(task, 0)
    deleted = torch.zeros(1, TRAINING, dtype=torch.float64)
    deleted[0, :15] = 1
    slope = perturbed_slope(task, victim, deleted) / TRAINING
    expected = victim.flat() - torch.linalg.solve(curvature(task, victim, deleted[0]), slope)
    found = removal(sigma=sigma, epsilon=1e6).forget(task, victim, deleted, 0).flat()[0]
    assert (found - expected).abs().max() < 1e-10


@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize("decay", [1e-3, 1e-2, 1e-1])
def test_residual_bounds_and_distance_to_retraining(decay: float, sigma: float) -> None:
    """True residual <= charged bound <= worst case, and the distance to retraining by strong convexity n lambda.

    The victim's own gradient (1e-12 of the sum at most) and rounding are charged too, hence 1e-9 beside the worst case.
    """
    task, procedure = digits(decay), removal(sigma=sigma, epsilon=1e9)
    victim, n = procedure.learn(task, 0), len(task.records)
    longest = float(design(victim, task.records).norm(dim=1).max())
    for count in (1, 5, 20):
        deleted = first(count, task)
        found = procedure.forget(task, victim, deleted, 0)[0]
        assert found.ledger["retrainings"] == 0
        residual = perturbed_slope(task, found, deleted).norm()
        assert residual <= found.ledger["spent"] + 1e-12  # rounding in float64
        assert found.ledger["spent"] <= worst_case_bound(count, n - count, n, decay, longest) + 1e-9
        again = procedure.learn(replace(task, forgotten=deleted[0]), 0)  # the same b, which is derived
        distance, before = (found.flat() - again.flat()).norm(), (victim.flat() - again.flat()).norm()
        assert distance <= (residual + again.ledger["spent"]) / (decay * n)
        if decay == 1e-2:
            assert distance <= 0.05 * before


def test_the_bound_is_the_remainder_s_where_the_solver_is_exact() -> None:
    task, procedure = digits(1e-2), removal(epsilon=1e9)
    victim, deleted = procedure.learn(task, 0), first(5, digits(1e-2))
    found = procedure.forget(task, victim, deleted, 0)
    x = design(victim, task.records)
    step = found.flat() - victim.flat()
    bound = remainder_bound(
        x, 1 - deleted, torch.cat([step[:, :-2].reshape(1, 2, 64), step[:, -2:, None]], dim=2), spectral_norm(x)
    )
    assert float(found.ledger["spent"][0]) == pytest.approx(float(bound[0]), rel=1e-6)
    assert float(victim.history["spectral_norm"]) == pytest.approx(float(torch.linalg.svdvals(x)[0]), rel=1e-12)


def test_a_second_request_takes_the_step_without_both() -> None:
    """theta_1 + H_{A+B}(theta_1)^{-1} (1/n) sum_B grad l_j(theta_1): earlier removals are not corrected again."""
    task, procedure = digits(1e-2), removal(sigma=0.0)
    victim = procedure.learn(task, 0)
    model = forget(procedure, task, victim, Request((1, 2, 3)), 0)
    after = forget(procedure, task.without(Request((1, 2, 3))), model, Request((7, 9)), 0)
    union = torch.zeros(357, dtype=torch.float64)
    union[[1, 2, 3, 7, 9]] = 1
    leaving = per_example_gradients(model, task.records[torch.tensor([7, 9])]).sum(0)
    expected = model.flat() + torch.linalg.solve(curvature(task, model, union), leaving / 357)
    assert (after.flat() - expected).abs().max() < 1e-10


@pytest.mark.parametrize("epsilon", [1e9, 1.0])
def test_forget_leaves_the_victim_and_treats_rows_alone(epsilon: float) -> None:
    task, procedure = digits(1e-2), removal(epsilon=epsilon)
    victim = procedure.learn(task, 0)
    kept = [{name: value.clone() for name, value in part.items()} for part in (victim.parameters, victim.ledger)]
    deleted = torch.cat([first(30, task), first(2, task), torch.zeros(1, 357).double(), one(8)])
    together = procedure.forget(task, victim, deleted, 0)
    for i, row in enumerate(deleted):
        alone = procedure.forget(task, victim, row[None], 0)
        assert (together.flat()[i] - alone.flat()[0]).abs().max() < 1e-10
        assert torch.equal(together.ledger["retrainings"][i], alone.ledger["retrainings"][0])
        assert float(together.ledger["spent"][i]) == pytest.approx(float(alone.ledger["spent"][0]), rel=1e-6, abs=1e-11)
    for part, values in zip((victim.parameters, victim.ledger), kept, strict=True):
        assert all(torch.equal(part[name], value) for name, value in values.items())
    assert not victim.module.training


def test_single_precision_is_charged_for_its_rounding() -> None:
    """Float32 models: the residual, computed in float64 at the parameters as they are, is within what is charged."""
    task = digits(1e-2)
    single = replace(task, records=task.records.to(dtype=torch.float32))
    procedure = CertifiedRemoval(epsilon=1e9)
    victim = procedure.learn(single, 0)
    deleted = first(5, task)
    found = procedure.forget(single, victim, deleted.float(), 0)[0]
    assert found.flat().dtype == torch.float32
    precise = replace(single, records=single.records.to(dtype=torch.float64))
    for model, weights in ((victim, 0 * deleted), (found, deleted)):
        exact = Victim(model.module, {k: v.double() for k, v in model.parameters.items()}, {}, {}, model.ledger)
        # both are sums of 357 gradients of norm at most sqrt(2), rounded: 357 sqrt(2) 2^-52 = 1.1e-13 apart
        assert perturbed_slope(precise, exact, weights).norm() <= model.ledger["spent"] + 2e-13
    assert 1e-8 < victim.ledger["spent"] < 1e-3


@pytest.mark.parametrize("epsilon", [1e9, 1e-3], ids=["step", "retrained"])
def test_pull_back_equals_central_differences(epsilon: float) -> None:
    """dL/dw for a fixed linear L, at fractional weights; error of the difference about step^2."""
    task = replace(bed(0).task, training=Training(optimizer="newton", weight_decay=LAMBDA / TRAINING, tolerance=1e-14))
    procedure = removal(epsilon=epsilon, sigma=0.5)
    victim = procedure.learn(task, 0)
    weights = 0.3 * torch.rand(1, TRAINING, generator=generator(1, "w"), dtype=torch.float64)
    rng = generator(2, "d")
    direction = torch.randn(1, TRAINING, generator=rng, dtype=torch.float64)
    cotangent = torch.randn(1, 33, generator=rng, dtype=torch.float64)
    models = procedure.forget(task, victim, weights, 0)
    assert int(models.ledger["retrainings"][0]) == (epsilon < 1)
    slopes = procedure.request_vjp(task, victim, models, weights, cotangent)
    ends = [procedure.forget(task, victim, weights + sign * 1e-4 * direction, 0).flat() for sign in (1, -1)]
    difference = float(((ends[0] - ends[1]) * cotangent).sum()) / 2e-4
    assert float((slopes * direction).sum()) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"build": partial(MLP, shape=(64,), classes=2)}, "choose model=logistic"),
        ({"training": Training()}, "training=newton"),
        ({"training": Training(optimizer="newton", weight_decay=0)}, "weight_decay above 0"),
        ({"build": partial(Logistic, shape=(64,), classes=100)}, "this model has 6,500"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(change: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        CertifiedRemoval().learn(replace(digits(1e-2), **change), 0)


def test_other_mistakes() -> None:
    task = digits(1e-2)
    victim = removal().learn(task, 0)
    with pytest.raises(UserError, match="has no budget"):
        removal().forget(task, replace(victim, ledger={}), first(1, task), 0)
    with pytest.raises(ValueError, match=r"unlearning\.solver\.damping must be 0"):
        CertifiedRemoval(solver=Solver(damping=0.1))
    with pytest.raises(ValueError, match="the Newton step on all parameters"):
        CertifiedRemoval(solver=Solver(curvature="fisher"))
