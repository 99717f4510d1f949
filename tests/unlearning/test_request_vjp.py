"""dL/dw of every differentiable procedure against differences of its `forget`, in float64, with submitted copies."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from data.examples import Examples
from data.randomness import generator
from models.logistic import Logistic
from models.solver import Solver
from models.training import Training
from models.victim import Victim
from tests.models.test_mask import a_mask
from tests.unlearning.certified_problems import N, small
from tests.unlearning.test_every_procedure import NAMES, procedure
from unlearning.amnesiac import Amnesiac
from unlearning.certified import Certified
from unlearning.certified_removal import CertifiedRemoval
from unlearning.first_order import FirstOrder
from unlearning.gradient_ascent import GradientAscent
from unlearning.influence_replacement import InfluenceReplacement
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.task import Task
from unlearning.unrolling_sgd import UnrollingSGD

TIGHT = Solver(method="cg", tolerance=1e-13, damping=1.0)
UNDAMPED = replace(TIGHT, damping=0.0)
BENT, FISHER = replace(TIGHT, curvature="hessian"), replace(TIGHT, curvature="fisher")
CASES: dict[str, Any] = {
    "retrain": Retrain(solver=UNDAMPED),
    "first_order": FirstOrder(),
    "second_order": SecondOrder(solver=TIGHT),
    "second_order, Hessian": SecondOrder(solver=BENT),
    "second_order, Fisher": SecondOrder(solver=FISHER),
    "second_order, influence": SecondOrder(solver=TIGHT, retained_curvature=False),
    "gradient_ascent": GradientAscent(steps=4),
    "influence_replacement": InfluenceReplacement(solver=TIGHT),
    "influence_replacement, Hessian": InfluenceReplacement(solver=BENT),
    "influence_replacement, Fisher": InfluenceReplacement(solver=FISHER),
    "influence_replacement, original": InfluenceReplacement(solver=TIGHT, curvature_of="original"),
    "influence_replacement, first": InfluenceReplacement(order="first"),
    "unrolling_sgd": UnrollingSGD(),
    "amnesiac": Amnesiac(),
    "certified": Certified(solver=UNDAMPED, convexification=1.0, noise="derived"),
    "certified_removal": CertifiedRemoval(solver=replace(UNDAMPED, tolerance=1e-12), sigma=0.0, noise="derived"),
}
COMPUTE_WITH_COPIES = ("first_order", "second_order", "gradient_ascent", "influence_replacement", "unrolling_sgd")
LINEAR = ("retrain", "certified_removal")  # which have a minimum to be at


@cache
def task(name: str) -> Task:
    of = small()
    if name.partition(",")[0] not in LINEAR:
        return of
    newton = Training(optimizer="newton", weight_decay=0.1, tolerance=1e-13)
    return Task(of.records, partial(Logistic, shape=(5,), classes=3), newton)


@cache
def victim(name: str, state: str = "dense") -> Victim:
    learned: Victim = CASES[name].learn(task(name), 0)
    return replace(learned, mask=a_mask(learned)) if state == "pruned" else learned


def copies() -> Examples:
    """Every record moved, and a third of the labels changed."""
    records, rng = small().records, generator(5, "copies")
    moved = records.x + torch.randn(records.x.shape, generator=rng, dtype=torch.float64)
    return Examples(moved, torch.where(torch.arange(N) % 3 == 0, (records.y + 1) % 3, records.y))


def weights() -> Tensor:
    """Two requests of a few fractions each."""
    rows = torch.rand(2, N, generator=generator(6, "weights"), dtype=torch.float64)
    return 0.2 + 0.5 * rows * (torch.arange(N) % 4 == 0)


def slopes(name: str, submitted: Examples | None, state: str = "dense") -> tuple[Tensor, Tensor]:
    """dL/dw (2, n) and q of L = <q, theta'>."""
    of, model, w = CASES[name], victim(name, state), weights()
    models = of.forget(task(name), model, w, 0, submitted)
    q = torch.randn(models.flat().shape, generator=generator(7, "q"), dtype=torch.float64)
    return of.request_vjp(task(name), model, models, w, q, submitted), q


@pytest.mark.parametrize("brings", [False, True], ids=["records", "copies"])
@pytest.mark.parametrize("state", ["dense", "pruned"])
@pytest.mark.parametrize("name", CASES)
def test_dw_equals_central_differences(name: str, state: str, brings: bool) -> None:
    if state == "pruned" and name == "certified_removal":
        return  # it refuses pruned models
    submitted = copies() if brings else None
    found, q = slopes(name, submitted, state)
    direction = torch.randn(2, N, generator=generator(8, "direction"), dtype=torch.float64)

    def value(step: float) -> Tensor:
        models = CASES[name].forget(task(name), victim(name, state), weights() + step * direction, 0, submitted)
        return (models.flat() * q).sum(1)  # type: ignore[no-any-return]

    difference = (value(1e-5) - value(-1e-5)) / 2e-5  # truncation 1e-10 of the slope, rounding about 1e-10
    torch.testing.assert_close((found * direction).sum(1), difference, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_copies_matter_where_they_are_computed_with(name: str) -> None:
    """Elsewhere the provider forgets its own records, and the gradient is the same bit by bit."""
    plain, brought = slopes(name, None)[0], slopes(name, copies())[0]
    if name.partition(",")[0] in COMPUTE_WITH_COPIES:
        assert (plain - brought).norm() > 0.1 * plain.norm()
    else:
        assert torch.equal(plain, brought)


def test_every_differentiable_procedure_is_here() -> None:
    assert {name.partition(",")[0] for name in CASES} == {name for name in NAMES if procedure(name).differentiable}
