"""The budget of certified removal, its noise, and its certificates."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from models.logistic import Logistic
from models.victim import Victim
from tests.unlearning.certified_problems import DELTA, EXACT, digits, first, one, perturbed_slope, removal
from unlearning.certification.certificate import Certifying
from unlearning.certification.gaussian_mechanism import sensitivity_for
from unlearning.certification.softmax_regression import design, remainder_bound, spectral_norm
from unlearning.certified_removal import CertifiedRemoval
from unlearning.procedure import Request, Task, forget


@pytest.mark.parametrize("mechanism", ["analytic", "classical"])
def test_the_budget(mechanism: Any) -> None:
    procedure = CertifiedRemoval(sigma=2.0, epsilon=0.7, delta=DELTA, mechanism=mechanism)
    classical = 2.0 * 0.7 / (2 * torch.tensor(1.5 / DELTA, dtype=torch.float64).log()).sqrt()
    expected = float(classical) if mechanism == "classical" else sensitivity_for(2.0, 0.7, DELTA)
    assert procedure.budget == pytest.approx(expected, rel=1e-12)


def test_retraining_exactly_when_the_budget_is_exceeded() -> None:
    """Candidates of one call: those beyond the budget are trained again with a fresh b, the others are untouched."""
    task, sizes = digits(1e-2), (0, 1, 2, 4, 8, 16, 32)
    deleted = torch.cat([first(count, task) if count else torch.zeros(1, 357).double() for count in sizes])
    generous = removal(sigma=1.0, epsilon=1e9)
    victim = generous.learn(task, 3)
    free = generous.forget(task, victim, deleted, 3)
    assert (free.ledger["retrainings"] == 0).all()
    strict = removal(sigma=1.0, epsilon=1.0)
    found = strict.forget(task, victim, deleted, 3)
    over = free.ledger["spent"] > strict.budget
    assert 0 < int(over.sum()) < len(sizes)
    assert torch.equal(found.ledger["retrainings"], over.long())
    assert torch.equal(found.flat()[~over], free.flat()[~over])
    assert torch.equal(found.ledger["noise"][~over], victim.ledger["noise"].expand(int((~over).sum()), -1))
    for row in over.nonzero()[:, 0].tolist():
        model = found[row]
        assert not torch.equal(model.ledger["noise"], victim.ledger["noise"])
        assert perturbed_slope(task, model, deleted[row : row + 1]).norm() < 1e-9  # a minimum without them
        assert model.ledger["spent"] < 1e-9
    assert torch.equal(found.flat()[0], victim.flat())


def test_the_sum_over_requests_triggers() -> None:
    """One record at a time: the budget is spent up, then b is drawn anew, and nothing is certified beyond it."""
    task, procedure = digits(1e-2), CertifiedRemoval(sigma=0.1, epsilon=1.0, solver=EXACT)
    model, spent, seen = procedure.learn(task, 0), 0.0, []
    noise = model.ledger["noise"]
    for record in range(40):
        after = forget(procedure, task, model, Request((record,)), 0)
        task = task.without(Request((record,)))
        step = float(remainder_or_inf(task, model, after))
        if after.ledger["retrainings"] > model.ledger["retrainings"]:
            seen.append(record)
            assert not torch.equal(after.ledger["noise"], noise)
            noise = after.ledger["noise"]
            alone = removal(sigma=0.1, epsilon=1e9).forget(before(task, record), model, one(record), 0)
            assert alone.ledger["spent"][0] > procedure.budget  # it would have been exceeded
        else:
            assert torch.equal(after.ledger["noise"], noise)
            assert float(after.ledger["spent"]) == pytest.approx(spent + step, rel=1e-6)
        assert procedure.certificate(task, after).verdict == "certified"
        model, spent = after, float(after.ledger["spent"])
        assert perturbed_slope(task, model, task.forgotten[None]).norm() <= spent + 1e-12  # type: ignore[index]
        assert spent <= procedure.budget
    assert 1 <= len(seen) < 40


def remainder_or_inf(task: Task, model: Victim, after: Victim) -> Tensor:
    step = (after.flat() - model.flat())[None]
    steps = torch.cat([step[:, :-2].reshape(1, 2, 64), step[:, -2:, None]], dim=2)
    x = design(model, task.records)
    return remainder_bound(x, 1 - task.forgotten[None], steps, spectral_norm(x))[0]  # type: ignore[index]


def before(task: Task, record: int) -> Task:
    gone = task.forgotten.clone()  # type: ignore[union-attr]
    gone[record] = 0
    return replace(task, forgotten=gone)


def test_certificates() -> None:
    task = digits(1e-2)
    procedure = CertifiedRemoval(sigma=1.0, epsilon=1.0, solver=EXACT)
    assert isinstance(procedure, Certifying)
    model = forget(procedure, task, procedure.learn(task, 0), Request((5,)), 0)
    good = procedure.certificate(task.without(Request((5,))), model)
    assert good.verdict == "certified"
    assert good.sensitivity == float(model.ledger["spent"])
    assert 0 < good.implied_epsilon <= 1.0
    assert "gamma = 0.2722 (proven)" in good.describe()
    assert good.as_dict()["constants"]["retrainings"] == {"value": 0.0, "status": "measured"}

    silent = CertifiedRemoval(sigma=0.0, solver=EXACT)
    model = forget(silent, task, silent.learn(task, 0), Request((5,)), 0)
    refused = silent.certificate(task, model)
    assert refused.verdict == "uncertified"
    assert "sigma=0" in refused.reason
    assert refused.as_dict()["implied_epsilon"] is None

    open_ = removal(sigma=1.0)
    derived = open_.certificate(task, open_.learn(task, 0))
    assert derived.verdict == "uncertified"
    assert "noise=derived" in derived.reason


def test_the_classical_budget_certifies_nothing_where_it_is_wrong() -> None:
    """At epsilon 20 it lets more through than (epsilon, delta) allows, and the certificate says so."""
    task, procedure = digits(1e-2), CertifiedRemoval(sigma=1.0, epsilon=20.0, mechanism="classical", solver=EXACT)
    victim = procedure.learn(task, 0)
    between = (procedure.budget + sensitivity_for(1.0, 20.0, DELTA)) / 2
    assert sensitivity_for(1.0, 20.0, DELTA) < between <= procedure.budget
    spent = replace(victim, ledger={**victim.ledger, "spent": torch.tensor(between, dtype=torch.float64)})
    assert procedure.certificate(task, spent).verdict == "uncertified"
    assert procedure.certificate(task, victim).verdict == "certified"


def test_secret_noise_differs_and_derived_noise_does_not() -> None:
    task = digits(1e-2)
    secret, derived = CertifiedRemoval(solver=EXACT), removal()
    assert (secret.irreproducible, derived.irreproducible) == (True, False)
    assert not torch.equal(secret.learn(task, 0).ledger["noise"], secret.learn(task, 0).ledger["noise"])
    assert torch.equal(derived.learn(task, 0).flat(), derived.learn(task, 0).flat())
    assert not torch.equal(derived.learn(task, 0).flat(), derived.learn(task, 1).flat())
    tight = CertifiedRemoval(sigma=1.0, epsilon=1e-6, solver=EXACT)  # a budget of 2.6e-5, where 30 records take 0.1
    rows = torch.cat([first(30, task), first(31, task)])
    again = tight.forget(task, tight.learn(task, 0), rows, 0)
    assert (again.ledger["retrainings"] == 1).all()
    assert not torch.equal(again.ledger["noise"][0], again.ledger["noise"][1])


def test_the_noise_has_the_deviation_asked_for() -> None:
    """650 draws: the standard deviation within 5 standard errors, 5/sqrt(2 * 650) = 14%."""
    task = replace(digits(1e-2), build=partial(Logistic, shape=(64,), classes=10))
    assert float(CertifiedRemoval(sigma=2.5).learn(task, 0).ledger["noise"].std()) == pytest.approx(2.5, rel=0.14)
