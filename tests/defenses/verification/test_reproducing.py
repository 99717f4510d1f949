"""Reproducing verification believes who retrained, and names the step or field of what is wrong with a proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from data.errors import UserError
from defenses.verification.proved import Check
from defenses.verification.reproducing import Reproducing
from defenses.verification.verification import Case, Verdict, verified
from models.plan import Plan, follow
from models.small_cnn import SmallCNN
from models.stepwise import Opening, Stepwise
from models.training import Training
from proofs.audits import CHECKS
from proofs.reader import Proof, Step, open_proof
from tests.defenses.verification.proving import DELETED, case, forgotten, of, world, writer
from tests.proofs.altered import altered, at, moved, swapped
from unlearning.fine_tune import FineTune
from unlearning.procedure import Procedure
from unlearning.provable import drawn
from unlearning.retrain import Retrain

ONE = cache(world)
ADAM = Training(epochs=3, batch_size=30, optimizer="adam", lr=0.01)
ELSEWHERE = {"torch": "0.1", "device": "cpu", "threads": 1, "processor": "none", "system": "none"}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def judged(found: Case, **options: Any) -> Verdict:
    verdict = verified(Reproducing(**options), found)
    assert verdict.passed == (verdict.statistic <= verdict.threshold)
    return verdict


@pytest.mark.parametrize("procedure", [None, FineTune(epochs=2)], ids=["retrain", "fine_tune"])
@pytest.mark.parametrize("training", [None, ADAM], ids=["momentum", "adam"])
def test_an_honest_provider_is_believed(procedure: Procedure | None, training: Training | None, tmp_path: Path) -> None:
    found = forgotten(world(training) if training else ONE(), tmp_path / "proof", procedure)
    verdict = judged(found)
    steps = 18 if procedure is None else 12  # 180 records in batches of 30
    assert (verdict.passed, verdict.statistic, verdict.threshold, verdict.level) == (True, 0.0, 1e-6, 0.0)
    assert verdict.gradients == 30 * steps
    assert verdict.replay is not None
    assert verdict.replay.steps == list(range(1, steps + 1))
    assert verdict.reason == (
        f"{steps} intervals were replayed with errors of at most 0 (1e-06 is tolerated), and complete, removability, "
        "recipe, initialisation, commitment, final hold."
    )
    assert verdict.details["problems"] == 0
    exact = judged(found, tolerance=None)
    assert (exact.passed, exact.threshold) == (True, 0.0)


def test_batch_norm_and_several_workers(tmp_path: Path) -> None:
    build = partial(SmallCNN, shape=(1, 8, 8), classes=10, widths=[4], norm="batch")
    found = forgotten(world(Training(epochs=1, batch_size=30), build), tmp_path / "proof")
    one, two = judged(found), judged(found, workers=2)
    assert one.passed
    assert (one.statistic, one.reason, one.details) == (two.statistic, two.reason, two.details)


def logged_original(folder: Path) -> Proof:
    """The log of the original training, with all records, as the proof of forgetting 20 of them."""
    there = ONE()
    training, records = there.task.training, there.task.records
    plan = Plan(training, len(records), ragged=True)
    learner = Stepwise(drawn(there.task, 0), training, records.x, 0)
    opening = Opening(training=training, steps=plan.steps, seed=0)
    follow(learner, records, plan, plan.batches(torch.arange(200), 0), opening, writer(there, folder, DELETED))
    return open_proof(folder)


def test_who_forgets_nothing_is_caught_by_the_first_batch_with_a_deleted_record(tmp_path: Path) -> None:
    proof = logged_original(tmp_path / "proof")
    first = next(step.number for step in proof.read(1) if set(step.batch.tolist()) & set(DELETED.tolist()))
    verdict = judged(case(ONE(), ONE().original, proof))
    assert (verdict.passed, verdict.statistic) == (False, float("inf"))
    assert verdict.reason.startswith(f"The batch of step {first} has record ")
    assert "which was to be forgotten. (removability) Also wrong: recipe." in verdict.reason
    assert verdict.details["removability_steps"] > 1
    assert verdict.details["first_step"] == first
    only = judged(case(ONE(), ONE().original, proof), checks=())
    assert only.passed  # every step was made as it was logged: a replay alone says nothing of what is in the batches
    assert only.reason == "21 intervals were replayed with errors of at most 0 (1e-06 is tolerated)."


LIES: dict[str, tuple[Callable[[Step], Step | None], dict[str, Any], str | None]] = {
    "complete": (lambda step: step if step.number < 15 else None, {}, "announces 18 steps and has 14"),
    "recipe": (at(4, lr=lambda lr: lr * 0.5), {}, "The learning rate of step 4"),
    "initialisation": (lambda step: step, {"seed": 1}, "Before the first step hidden.0.weight is not"),
    "commitment": (lambda step: step, {}, "The hash of record 8 is that of another record"),
    "final": (lambda step: step, {}, "of the released model is not that of the last step"),
}


@pytest.mark.parametrize("check", LIES)
def test_each_check_finds_its_lie_and_can_be_left_out(check: Check, tmp_path: Path) -> None:
    found = forgotten(ONE(), tmp_path / "proof")
    assert found.proof is not None
    change, header, said = LIES[check]
    hashes: bytearray | None = None
    if check == "commitment":
        from proofs.commitment import root

        hashes = bytearray(found.proof.hashes())
        hashes[8 * 32] ^= 1
        header = {"records": replace(found.proof.header.records, root=root(bytes(hashes)))}
    proof = altered(found.proof, tmp_path / "altered", change, None if hashes is None else bytes(hashes), **header)
    lied = of(found, proof)
    if check == "final":
        lied = replace(lied, model=ONE().original)
    verdict = judged(lied)
    assert not verdict.passed
    assert str(said) in verdict.reason
    assert f"({check})" in verdict.reason
    assert verdict.details[f"failed_{check}"] == 1
    rest = tuple(each for each in Reproducing().checks if each != check)
    again = judged(lied, checks=rest, tolerance=1e9)
    others = {"complete": "final"}.get(check)  # which then has no last state
    assert again.passed or again.reason.endswith(f"({others})")


def test_a_state_that_was_not_computed_is_named_by_its_step(tmp_path: Path) -> None:
    found = forgotten(ONE(), tmp_path / "proof")
    assert found.proof is not None
    wrong = of(found, altered(found.proof, tmp_path / "wrong", at(9, state=moved(1e-4))))
    verdict = judged(wrong)
    assert (verdict.passed, verdict.threshold) == (False, 1e-6)
    assert verdict.statistic == pytest.approx(1e-4, rel=0.5)
    assert verdict.reason.startswith("Replayed, the weights of step 9 are 0.0001 from those of the proof")
    assert judged(wrong, tolerance=1e-2).passed
    for distance, slack in (("l1", 1000.0), ("l2", 10.0), ("l_inf", 0.1), ("cosine", 0.01)):
        assert judged(wrong, distance=distance, tolerance=slack).passed  # the slacks of Proof-of-Learning


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_largest_moves_alone_miss_a_spoof_that_moments_do_not_give_away(momentum: float, tmp_path: Path) -> None:
    """With plain SGD an interval hangs on nothing but the state before it; momentum carries what went before."""
    found = forgotten(world(Training(epochs=3, batch_size=30, momentum=momentum)), tmp_path / "proof")
    verdict = judged(found, queries=2)
    assert verdict.passed
    assert verdict.replay is not None
    assert len(verdict.replay.steps) == 6
    assert found.proof is not None
    asked = verdict.replay.steps
    least = next(step for step in range(1, 18) if {step, step + 1}.isdisjoint(asked))
    spoofed = of(found, altered(found.proof, tmp_path / "spoofed", at(least, state=moved(1e-4))))
    again = judged(spoofed, queries=2)
    assert again.passed == (momentum == 0)
    if momentum:
        assert again.details["first_step"] > least + 1  # where it was carried to
    assert f"the weights of step {least} are" in judged(spoofed).reason


def test_elsewhere_the_floor_is_measured_and_told(tmp_path: Path) -> None:
    found = forgotten(ONE(), tmp_path / "proof")
    assert found.proof is not None
    elsewhere = of(found, altered(found.proof, tmp_path / "elsewhere", machine=ELSEWHERE))
    verdict = judged(elsewhere, tolerance=None)
    assert verdict.passed
    assert verdict.level is None  # nobody knows it where replays are not exact
    assert verdict.threshold == 10 * verdict.details["floor"] > 0
    assert verdict.gradients == 30 * 18 * 3
    inside = of(found, altered(found.proof, tmp_path / "inside", at(6, batch=swapped), machine=ELSEWHERE))
    assert judged(inside, tolerance=None).passed
    wrong = of(found, altered(elsewhere.proof or found.proof, tmp_path / "wrong", at(9, state=moved(1e-3))))
    assert not judged(wrong, tolerance=None).passed


def test_a_damaged_proof_is_named_by_its_step(tmp_path: Path) -> None:
    found = forgotten(ONE(), tmp_path / "proof")
    assert found.proof is not None
    shard = found.proof.folder / "shard-00000.bin"
    data = bytearray(shard.read_bytes())
    data[found.proof.index.offsets[11] + 40] ^= 1
    shard.write_bytes(bytes(data))
    verdict = judged(found)
    assert (verdict.passed, verdict.statistic, verdict.details["first_step"]) == (False, float("inf"), 11)
    assert verdict.reason.startswith("The proof is damaged at step 11")


def test_without_a_proof_or_a_model_there_is_nothing_to_replay(tmp_path: Path) -> None:
    found = forgotten(ONE(), tmp_path / "proof")
    for missing in (replace(found, proof=None), replace(found, model=None)):
        with pytest.raises(UserError, match="needs the opened model and a proof"):
            Reproducing().verify(missing)


def test_wrong_options_are_refused() -> None:
    assert set(get_args(Check)) == set(CHECKS)
    for wrong in ({"queries": -1}, {"tolerance": -1e-6}, {"distance": "l3"}, {"checks": ["colour"]}, {"workers": 0}):
        with pytest.raises(ValidationError):
            Reproducing(**wrong)


def test_a_retraining_may_not_begin_with_the_model_before(tmp_path: Path) -> None:
    """Declared was retraining from a draw; the provider went on from the model that knows the records."""
    tuned = forgotten(ONE(), tmp_path / "tuned", Going())
    verdict = judged(replace(tuned, procedure=Retrain()))
    assert "The proof begins with the model before deletion, and the declared procedure with a fresh" in verdict.reason


class Going(FineTune):
    """Fine-tuning by the recipe of the original training."""

    def recipe(self, task: Any) -> Training:
        return task.training


def test_deleted_records_of_before_must_not_be_there_either(tmp_path: Path) -> None:
    """What was forgotten earlier is no retained record: a proof that uses it is no proof of forgetting."""
    gone = torch.zeros(200)
    gone[[1, 2]] = 1
    found = forgotten(ONE(), tmp_path / "proof")
    verdict = judged(replace(found, task=replace(found.task, forgotten=gone)))
    assert not verdict.passed
    assert "(removability)" in verdict.reason
