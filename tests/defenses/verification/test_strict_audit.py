"""The strict audit believes honest retraining, and accuses proofs of real training on chosen or repeated records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from data.randomness import generator
from defenses.verification.reproducing import Reproducing
from defenses.verification.strict_audit import EVERY, StrictAudit
from defenses.verification.verification import Case, Verdict, verified
from models.logistic import Logistic
from models.plan import Plan, follow
from models.small_cnn import SmallCNN
from models.stepwise import Opening, Stepwise
from models.training import Training
from models.victim import Victim
from proofs.audits import CHECKS
from proofs.reader import open_proof
from tests.defenses.verification.proving import DELETED, World, case, forgotten, of, world, writer
from tests.proofs.altered import altered, at, moved
from tests.proofs.providers import chosen_at_random, forged, nearest
from unlearning.fine_tune import FineTune
from unlearning.procedure import Task
from unlearning.provable import drawn

ONE = cache(world)
PLAIN = Training(epochs=3, batch_size=30, lr=0.1, momentum=0.0, schedule="constant")
ORDER = StrictAudit().challenge(generator(3, "challenge")).order


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def judged(found: Case, **options: Any) -> Verdict:
    return verified(StrictAudit(**options), found)


def trained(there: World, folder: Path, batches: Iterator[Tensor], order: int | None) -> Case:
    """A provider who really trains, on batches of its own choice, and writes it down."""
    training = there.task.training
    plan = Plan(training, 180)
    learner = Stepwise(drawn(there.task, 0), training, there.task.records.x, 0)
    opening = Opening(training=training, steps=plan.steps, seed=0)
    after = follow(learner, there.task.records, plan, batches, opening, writer(there, folder, DELETED, order))
    return case(there, after, open_proof(folder), order=order)


def test_the_verifier_draws_the_order_that_an_honest_provider_follows(tmp_path: Path) -> None:
    assert ORDER is not None
    assert 0 <= ORDER < 2**53
    assert StrictAudit().challenge(generator(4, "challenge")).order != ORDER
    assert StrictAudit(verifier_order=False).challenge(generator(3, "challenge")).order is None
    verdict = judged(forgotten(ONE(), tmp_path / "proof", order=ORDER))
    assert (verdict.passed, verdict.statistic, verdict.threshold, verdict.level) == (True, 0.0, 0.0, 0.01)
    assert verdict.details["problems"] == 0
    assert verdict.details["multiplicity_most"] == 1
    assert verdict.details["coverage_off"] == 0
    assert verdict.details["distance_ratio"] > 0.3
    assert "18 intervals were replayed with errors of at most 0 (0 is tolerated), and 13 audits hold." in verdict.reason
    assert "random_order_p" not in verdict.details
    tuned = judged(forgotten(ONE(), tmp_path / "tuned", FineTune(epochs=2), order=ORDER))
    assert tuned.passed


def test_the_level_is_that_of_all_tests_of_chance_that_are_made(tmp_path: Path) -> None:
    """One of first weights, and one of the order of records where the provider chose it; each accuses 1%."""
    free = forgotten(ONE(), tmp_path / "free")
    whole = judged(free)
    assert (whole.passed, whole.level) == (True, pytest.approx(0.02))
    assert 0.01 <= whole.details["random_order_p"] <= 1
    for left_out, level in (({"initial_distribution"}, 0.01), ({"random_order"}, 0.01)):
        assert judged(free, checks=tuple(set(EVERY) - left_out)).level == level
    assert judged(free, checks=tuple(set(EVERY) - {"initial_distribution", "random_order"})).level == 0
    assert verified(Reproducing(checks=("random_order",)), free).level == 0.01
    due = forgotten(ONE(), tmp_path / "due", order=ORDER)
    assert judged(due, checks=("random_order",)).level == 0


def test_every_check_that_there_is_is_made() -> None:
    assert set(StrictAudit().checks) == set(CHECKS)


def test_chosen_batches_pass_a_replay_and_not_the_order_of_the_verifier(tmp_path: Path) -> None:
    """Real training on batches that the provider picked, one that look like honest ones: only the order tells."""
    batches = chosen_at_random(200, DELETED, 30, 3, 1)
    found = trained(ONE(), tmp_path / "proof", batches, ORDER)
    assert verified(Reproducing(), found).passed
    verdict = judged(found)
    assert verdict.reason.startswith("The batch of step 1 is not the one that the verifier's order gives. (order)")
    assert [name for name in verdict.details if name.startswith("failed_")] == ["failed_order"]
    free = trained(ONE(), tmp_path / "free", chosen_at_random(200, DELETED, 30, 3, 1), None)
    assert judged(free).passed  # nothing distinguishes them where the provider has the choice


def test_substitutes_for_deleted_records_are_used_too_often(tmp_path: Path) -> None:
    to = nearest(ONE().task.records, DELETED)
    plan = Plan(ONE().task.training, 200)
    batches = (to[batch] for batch in list(plan.batches(torch.arange(200), 0)))
    found = trained(ONE(), tmp_path / "proof", batches, None)
    assert verified(Reproducing(), found).passed
    verdict = judged(found)
    assert not verdict.passed
    assert verdict.details["failed_multiplicity"] == verdict.details["failed_coverage"] == 1
    assert verdict.statistic == float("inf")
    assert "which its epoch had before. (multiplicity) Also wrong: coverage" in verdict.reason


def test_a_forged_proof_ends_beside_the_original(tmp_path: Path) -> None:
    """Re-anchored at the log of the original: caught by its errors and, where they are allowed, by where it ends."""
    there = world(PLAIN)
    records, build = there.task.records, there.task.build
    batches = list(Plan(PLAIN, 200, ragged=True).batches(torch.arange(200), 0))  # those of the original
    steps, _ = forged(records, build, PLAIN, DELETED, batches, p=0.0, seed=0)
    learner = Stepwise(drawn(there.task, 0), PLAIN, records.x, 0)
    recorder = writer(there, tmp_path / "proof", DELETED)
    recorder.begin(Opening(training=PLAIN, steps=len(steps), seed=0), learner.state)
    for batch, weights in steps:
        recorder.step(batch, PLAIN.lr, replace(learner.state, weights=weights))
    recorder.end()
    learner.load(replace(learner.state, weights=steps[-1][1]))
    found = case(there, learner.victim(), open_proof(tmp_path / "proof"))
    errors = judged(found, checks=("removability", "final", "initialisation"))
    assert errors.reason.startswith("Replayed, the weights of step ")
    assert errors.statistic > 1e-4
    lenient = judged(found, checks=("distance",), tolerance=1e9)
    assert "from the model before deletion" in lenient.reason
    assert 0 < lenient.details["distance_steps"] < 0.5  # measured 0.31 of a step


def test_a_certificate_is_told_and_decides_nothing(tmp_path: Path) -> None:
    found = forgotten(ONE(), tmp_path / "proof", order=ORDER)
    plain, verdict = judged(found), judged(found, certificate=40)
    assert verdict.passed
    assert verdict.gradients == plain.gradients + 40
    assert verdict.details["certificate_rank"] == verdict.details["certificate_rows"] == 40
    step = verdict.details["certificate_step"]
    assert verdict.reason == (
        f"{plain.reason} At step {step} no other batches of 40 records have the same sum of gradients."
    )
    coarse = judged(found, certificate=40, bits=1)
    assert coarse.passed
    assert coarse.details["certificate_rank"] < 40
    assert f"At step {coarse.details['certificate_step']} nothing is certified: " in coarse.reason
    assert found.proof is not None
    wrong = of(found, altered(found.proof, tmp_path / "wrong", at(9, state=moved(1e-4))))
    assert "certificate_step" not in judged(wrong, certificate=40).details


def test_a_certificate_that_says_nothing_is_refused() -> None:
    there = ONE()
    users = tuple(DELETED.split(5))

    def refused(match: str, task: Task = there.task, **options: Any) -> None:
        with pytest.raises(UserError, match=match):
            StrictAudit(**options).check(there.data, users, task)

    StrictAudit(certificate=200).check(there.data, users, there.task)
    refused("there are only 200 records", certificate=201)
    narrow = replace(there.task, build=partial(Logistic, shape=(1, 1, 1), classes=2))
    few = replace(narrow, records=replace(narrow.records, x=narrow.records.x[:, :, :1, :1]))
    refused("than the 4 parameters depend on each other always", few, certificate=5)
    mixing = partial(SmallCNN, shape=(1, 8, 8), classes=10, widths=[4], norm="batch")
    refused("mixes the records of a batch", replace(there.task, build=mixing), certificate=5)


def test_the_original_itself_is_accused_of_everything_that_it_is(tmp_path: Path) -> None:
    there = ONE()
    plan = Plan(there.task.training, 200, ragged=True)
    learner = Stepwise(drawn(there.task, 0), there.task.training, there.task.records.x, 0)
    opening = Opening(training=there.task.training, steps=plan.steps, seed=0)
    recorder = writer(there, tmp_path / "proof", DELETED, ORDER)
    victim: Victim = follow(learner, there.task.records, plan, plan.batches(torch.arange(200), 0), opening, recorder)
    verdict = judged(case(there, victim, open_proof(tmp_path / "proof"), order=ORDER))
    failed = {name.removeprefix("failed_") for name in verdict.details if name.startswith("failed_")}
    assert failed == {"removability", "recipe", "order", "multiplicity", "coverage", "distance"}
