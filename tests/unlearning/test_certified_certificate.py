"""What the certificates of deep networks say."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from data.examples import Examples
from data.randomness import generator
from models.logistic import Logistic
from models.small_cnn import SmallCNN
from models.solver import Solver
from tests.unlearning.certified_problems import EXACT, RECIPE, small
from unlearning.certification.certificate import Certifying
from unlearning.certification.newton_bound import newton_bound
from unlearning.certified import Certified
from unlearning.procedure import Request, Task, forget


def conditional(**options: Any) -> Certified:
    """Constants with which the bound holds something: an eigenvalue of 5 > MC = 1."""
    return Certified(**{"radius": 1.0, "lipschitz_hessian": 1.0, "smallest_eigenvalue": 5.0, "convexification": 0.1,
                        "sigma": 2.0, "epsilon": 2.0, "solver": EXACT, **options})  # fmt: skip


def test_a_certificate_is_conditional_at_best() -> None:
    task, procedure = small(), conditional()
    assert isinstance(procedure, Certifying)
    model = forget(procedure, task, procedure.learn(task, 0), Request((0,)), 0)
    found = procedure.certificate(task, model)
    assert found.verdict == "conditional on assumed constants"
    assert found.implied_epsilon <= 2.0
    assert found.sensitivity == pytest.approx(
        newton_bound(1.0, 1.0, 0.1, 5.0, float(model.ledger["gradient"]), float(model.ledger["unsolved"]))
    )
    assert {name: each.status for name, each in found.constants.items()} == {
        "C": "proven", "lambda": "proven", "M": "assumed", "lambda_min": "assumed", "G": "assumed",
        "unsolved": "measured", "releases": "measured", "published Delta with LiSSA": "assumed",
        "Hessian minus Gauss-Newton": "assumed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": "derived"}, "noise=derived"),
        ({"sigma": 0.0}, "sigma=0"),
        ({"smallest_eigenvalue": 0.5}, "vacuous"),
        ({"sigma": 0.1}, "too small"),
    ],
)
def test_what_is_not_certified_says_why(options: Any, words: str) -> None:
    task, procedure = small(), conditional(**options)
    model = forget(procedure, task, procedure.learn(task, 0), Request((0,)), 0)
    found = procedure.certificate(task, model)
    assert found.verdict == "uncertified"
    assert words in found.reason
    assert found.describe().startswith("uncertified: ")


def test_releases_compose() -> None:
    """k releases of one sensitivity are one of sqrt(k) times it: the implied epsilon grows until it is too large."""
    task, procedure = small(), conditional()
    model, seen = procedure.learn(task, 0), []
    for record in range(12):
        model = forget(procedure, task, model, Request((record,)), 0)
        task = task.without(Request((record,)))
        seen.append(procedure.certificate(task, model))
    epsilons = [each.implied_epsilon for each in seen]
    assert epsilons == sorted(epsilons)
    assert seen[0].verdict != "uncertified" == seen[-1].verdict


def test_the_defaults_of_the_official_code_are_vacuous_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    """C = 20, noise 0.001: the implied epsilon at the diameter is 8.0e8, and learning warns."""
    procedure = Certified(radius=20.0, convexification=0.01)
    with caplog.at_level(logging.WARNING):
        victim = procedure.learn(small(), 0)
    found = procedure.certificate(small(), victim)
    assert found.verdict == "uncertified"
    assert found.implied_epsilon == pytest.approx(8.0e8, rel=1e-3)
    assert found.sensitivity > 40.0
    assert "nothing is certified; sigma=0.001 implies epsilon=8e+08" in caplog.text


def test_batch_norm_gets_no_certificate_and_keeps_its_buffers() -> None:
    rng = generator(0, "images")
    records = Examples(torch.randn(20, 1, 4, 4, generator=rng), torch.randint(3, (20,), generator=rng))
    task = Task(records, partial(SmallCNN, shape=(1, 4, 4), classes=3, widths=[2], norm="batch"),
                replace(RECIPE, epochs=1))  # fmt: skip
    procedure = conditional(solver=Solver(tolerance=1e-2))
    victim = procedure.learn(task, 0)
    model = forget(procedure, task, victim, Request((0,)), 0)
    assert "batch-norm" in procedure.certificate(task, model).reason
    assert all(torch.equal(model.buffers[name], value) for name, value in victim.buffers.items())


def test_linear_logits_need_no_assumption_about_the_curvature() -> None:
    task, procedure = small(model=Logistic), conditional()
    model = forget(procedure, task, procedure.learn(task, 0), Request((0,)), 0)
    assert procedure.certificate(task, model).constants["Hessian minus Gauss-Newton"].status == "proven"
