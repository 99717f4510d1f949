from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from data.digits import Digits
from data.errors import UserError
from data.examples import Data
from data.randomness import derive
from defenses.verification.behavioural_audit import BehaviouralAudit, trained
from defenses.verification.verification import Case, Verdict, verified
from metrics.transcripts import Worlds, coupling, cross_fitted, discriminating, fitted, held_out, log_odds
from models.gradients import gradient_matrix
from models.mlp import MLP
from models.solver import Solver
from models.training import Training, train
from models.victim import ModelStack, Victim, stack
from tests.testbed import FEATURES, TRAINING, Testbed, testbed
from unlearning.fine_tune import FineTune
from unlearning.procedure import Procedure, Task
from unlearning.provable import Account
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.service import Predictor
from unlearning.sisa import Sisa

DELETED = torch.arange(3, 123, 3)
NEWTON = SecondOrder(solver=Solver(method="auto", damping=0.0))
bed = cache(testbed)


def small(**options: Any) -> BehaviouralAudit:
    return BehaviouralAudit(**{"worlds": 8, "inputs": 20, "folds": 4} | options)


def digits() -> tuple[Data, Task]:
    data = Digits(train=200, test=50, trusted=150).load()
    build = partial(MLP, shape=data.shape, classes=10, widths=(12,))
    return data, Task(data.train, build, Training(epochs=6, batch_size=50))


def providers(task: Task, seeds: list[int], deleted: Tensor | None) -> ModelStack:
    """Originals, or honest answers of the game: retraining in batches of retained records."""
    before = train(task.build, task.records, task.training, seeds)
    if deleted is None:
        return before
    return stack([Retrain().forget_provably(task, before[0], deleted, seed, Account()) for seed in seeds])


def case_of(data: Data, task: Task, after: Victim, deleted: Tensor, procedure: Procedure | None = None) -> Case:
    shown = Predictor([after])
    return Case(task, data, tuple(deleted.split(10)), shown, shown, data.trusted, 5, procedure or Retrain())


def bed_data(of: Testbed) -> Data:
    nothing, scale = of.test[:0], torch.ones(FEATURES)
    return Data("bed", of.task.records, of.test, of.trusted, nothing, ("a", "b", "c"), 0 * scale, scale)


def test_who_retrained_passes_and_who_kept_the_model_does_not() -> None:
    """A whole class is deleted, which every answer shows: in 4 of 4 cases each."""
    data, task = digits()
    deleted = (task.records.y == 3).nonzero()[:, 0]
    for models, honest in ((providers(task, [7, 8], deleted), True), (providers(task, [7, 8], None), False)):
        for i in range(2):
            verdict = verified(small(inputs=100), case_of(data, task, models[i], deleted))
            assert verdict.passed is honest
            assert (verdict.statistic <= 0) is honest
            assert (verdict.level, verdict.power, verdict.predictions) == (0, 1, 100)
            assert not honest or verdict.details["misfit"] < 3  # 1.6 on average with Gaussians of 8 models


def test_level_and_power_are_those_of_providers_whom_the_auditor_never_saw() -> None:
    """40 deleted of 200: rates over 32 worlds by cross-fitting, against 100 providers each and the Gaussians of all.

    Both are shares, of 32 and 100, so their difference has a standard error of at most .1; four are .4. The share of
    the retained records is what the rates stand and fall with: with a half of them nearly every honest one is accused.
    """
    data, task = digits()
    honest, dishonest = (providers(task, list(range(100, 200)), each) for each in (DELETED, None))
    x, y = data.trusted.x[:50], data.trusted.y[:50]
    others = Worlds(*(log_odds(each.logits(x).softmax(-1), y) for each in (honest, dishonest)))
    accused = {}
    for share in (1.0, 0.5):
        audit = BehaviouralAudit(share=share)
        case = case_of(data, task, honest[0], DELETED)
        kept = audit._answers(case, audit._left_out(case), x, y)
        worlds = Worlds(kept["honest"], kept["dishonest"])
        expected, found = cross_fitted(worlds, 8), held_out(fitted(worlds), others)
        accused[share] = found.false_alarm
        if share == 1:
            assert found.false_alarm == pytest.approx(expected.false_alarm, abs=0.4)
            assert found.miss == pytest.approx(expected.miss, abs=0.4)
            assert found.advantage > 0.3
    assert accused[0.5] > 0.9


def test_the_verdict_is_that_of_its_parts_by_hand() -> None:
    """Discriminating queries, half of the step, shrunk covariances: the auditor's models trained one by one."""
    data, task = digits()
    audit = small(inputs=6, eta=0.5, share=0.5, queries="discriminating", covariance="ledoit_wolf")
    case = case_of(data, task, providers(task, [7], None)[0], DELETED)
    x, y = data.trusted.x, data.trusted.y
    answers: list[tuple[Tensor, Tensor]] = []
    for model, row in enumerate(audit._left_out(case).float()):
        seed = derive(5, "behavioural audit", "model", model)
        old = train(task.build, task.records, task.training, [seed], row[None])[0]
        new = Retrain().forget_provably(replace(task, forgotten=row), old, DELETED, seed, Account())
        half = old.moved((new.flat() - old.flat())[None] / 2)[0]
        honest, dishonest = (log_odds(each.logits(x).softmax(-1), y) for each in (new, half))
        answers.append((honest, dishonest))
    worlds = Worlds(*(torch.stack(each) for each in zip(*answers, strict=True)))
    queries = discriminating(worlds, 6)
    seen = log_odds(case.after.predict(x[queries]), y[queries])[None]
    found, errors = audit.verify(case), cross_fitted(worlds, 4, "ledoit_wolf", 6)
    assert found.statistic == pytest.approx(float(fitted(worlds.at(queries), "ledoit_wolf").statistic(seen)), rel=1e-2)
    assert (found.level, found.power) == (errors.false_alarm, 1 - errors.miss)
    assert found.details["models"] == 8
    assert found.gradients == 8 * (80 + 40 + 80) * 6  # half of 160 retained ones, with the 40 deleted, and without


def test_deleted_records_are_in_every_training_set_before_and_in_none_after() -> None:
    """Of a convex model with one minimum: the models are those of the records that they should have seen."""
    of = bed(0)
    earlier = torch.zeros(TRAINING, dtype=torch.float64)
    earlier[200:210] = 1  # forgotten before
    task = replace(of.task, forgotten=earlier)
    case = case_of(bed_data(of), task, of.victim, DELETED)
    left = small(share=0.5, worlds=4)._left_out(case)
    assert not left[:, DELETED].any()
    assert left[:, 200:210].all()
    assert (left.sum(1) == 10 + 125).all()  # half of the other 250
    assert len(left.unique(dim=0)) == 4
    rows = left.double()
    exact = [
        train(task.build, task.records, task.training, [0] * 4, each).flat()
        for each in (rows, rows.index_fill(1, DELETED, 1))
    ]
    step = (exact[1] - exact[0]).norm()
    for procedure, tolerance in ((Retrain(), 1e-6), (NEWTON, 0.3)):
        pairs = list(trained(replace(case, procedure=procedure), left))
        before, after = (torch.cat([models.flat() for models in each]) for each in zip(*pairs, strict=True))
        torch.testing.assert_close(before, exact[0], rtol=0, atol=1e-6)
        assert float((after - exact[1]).norm() / step) < tolerance  # one Newton step is most of the way


@pytest.mark.parametrize("procedure", [Sisa(shards=2, slices=1), FineTune(epochs=1), SecondOrder()])
def test_any_procedure_can_be_audited(procedure: Procedure) -> None:
    data, task = digits()
    case = case_of(data, task, providers(task, [7], None)[0], DELETED, procedure)
    if isinstance(procedure, Sisa):
        case = replace(case, after=Predictor([procedure.learn(task, 7)]))
    found = verified(small(worlds=4, folds=2, eta=0.25), case)
    assert math.isfinite(found.statistic)
    again = verified(small(worlds=4, folds=2, eta=0.25), case)
    assert (again.statistic, again.details) == (found.statistic, found.details)


def test_answers_that_are_no_numbers_do_not_pass_and_saturated_ones_are_finite() -> None:
    data, task = digits()
    kept = providers(task, [7], None)[0]
    loud = {name: 1e3 * value if name.startswith("head") else value for name, value in kept.moving.items()}
    broken = {name: value * float("nan") for name, value in kept.moving.items()}
    found: list[Verdict] = []
    for parameters in (loud, broken):
        after = replace(kept, parameters=parameters)
        found.append(verified(small(), case_of(data, task, after, DELETED)))
    assert math.isfinite(found[0].statistic)
    assert found[0].details["misfit"] > 10
    assert (found[1].passed, found[1].statistic) == (False, math.inf)


def test_what_the_audit_learns_of_retained_records_is_reported_for_those_that_it_says_most_of() -> None:
    of = bed(0)
    case = case_of(bed_data(of), of.task, of.victim, DELETED, SecondOrder())
    audit = BehaviouralAudit(worlds=12, share=0.5, curious=3, inputs=30)
    found = verified(audit, case).details
    before, after = next(iter(trained(case, audit._left_out(case))))
    step, g = (after.flat() - before.flat())[0], gradient_matrix(before[0], of.task.records)
    kappa = coupling(g[case.retained] @ step, g[DELETED].sum(0) @ step)
    order = kappa.argsort(descending=True)[:3]
    assert found["curious_records"] == case.retained[order].tolist()
    assert found["kappa"] == pytest.approx(kappa[order].tolist())
    assert all(-1 <= each <= 1 for each in found["J_curiosity"])
    assert "curious_records" not in verified(replace(audit, curious=0), case).details


def test_settings_that_do_not_suffice_are_refused() -> None:
    data, task = digits()
    users = tuple(DELETED.split(10))
    for options, message in (
        ({"inputs": 151}, "150 trusted examples"),
        ({"worlds": 4, "folds": 5}, "raise defense.worlds=4"),
        ({"curious": 1}, "set defense.share below 1"),
        ({"curious": 1, "share": 0.5, "worlds": 7}, "at least 8"),
        ({"share": 0.001}, "is none"),
    ):
        with pytest.raises(UserError, match=message):
            small(**options).check(data, users, task)
    small(curious=2, share=0.5).check(data, users, task)
