"""Who knows the deleted records is caught, who was retrained is not; what distillation and ruin do to the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.digits import Digits
from data.errors import UserError
from data.examples import Data
from data.randomness import generator
from defenses.verification.proof_of_ignorance import ProofOfIgnorance
from defenses.verification.verification import Case, Verdict, prepared, verified
from metrics.membership import log_odds
from models.mlp import MLP
from models.training import Training, fresh, train
from models.victim import ModelStack, Tensors, Victim, concatenate, forward
from unlearning.fine_tune import FineTune
from unlearning.gradient_ascent import GradientAscent
from unlearning.procedure import Task
from unlearning.retrain import Retrain
from unlearning.service import Meter, Predictor

RECORDS, DELETED, MISLABELLED = 900, 100, 30
OVERFITTED = Training(epochs=40, weight_decay=0.0)
USERS = (torch.arange(60), torch.arange(60, DELETED))
QUICK = ProofOfIgnorance(models=3)


class World:
    """900 digits, of which 100 are deleted, 30 of these mislabelled; a model of all, and what providers make of it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.data = Digits(train=RECORDS, test=447, trusted=300, auxiliary=150, split_seed=seed).load()
        handed = prepared(ProofOfIgnorance(mislabelled=MISLABELLED / DELETED), self.data, USERS, self.rng("labels"))
        build = partial(MLP, shape=self.data.shape, classes=10, widths=[64, 64])
        self.task, self.secret = Task(handed.records, build, OVERFITTED), handed.secret
        self.gone = (torch.arange(RECORDS) < DELETED).float()[None]
        self.original = train(build, handed.records, OVERFITTED, [seed])[0]

    def rng(self, name: str) -> torch.Generator:
        return generator(self.seed, "test", name)

    def case(self, released: Victim, clean: bool = False) -> Case:
        """With `clean` the 70 records that have their own labels, and nobody knows of the others."""
        users, secret, task = torch.arange(DELETED), self.secret, self.task
        if clean:
            right = ~torch.isin(users, self.secret)
            task, users, secret = replace(task, forgotten=self.gone[0]), users[right], None
        answers = Predictor([self.original]), Predictor([released])
        return Case(task, self.data, (users,), *answers, self.data.trusted, self.seed, Retrain(), secret)

    def retrained(self) -> Victim:
        return train(self.task.build, self.task.records, OVERFITTED, [self.seed + 100], self.gone)[0]

    def fine_tuned(self) -> Victim:
        """40 steps: 4 epochs of 10 batches."""
        task = replace(self.task, training=replace(OVERFITTED, batch_size=90))
        return FineTune(epochs=4).forget(task, self.original, self.gone, self.seed)[0]

    def ascended(self) -> Victim:
        """Until the mean loss of the deleted records exceeds 3 nats."""
        ascent = GradientAscent(steps=30, lr=0.05, loss_cap=3.0)
        return ascent.forget(self.task, self.original, self.gone, self.seed)[0]

    def distilled(self) -> Victim:
        """40 steps on retained records, and on what eight models of its own, which know nothing, say of the deleted."""
        records, victim, order = self.task.records, self.original, self.rng("batches")
        parts = [DELETED + torch.randperm(RECORDS - DELETED, generator=order)[:120] for _ in range(8)]
        teachers = concatenate(
            [train(self.task.build, records[part], OVERFITTED, [self.seed + 500 + k]) for k, part in enumerate(parts)]
        )
        own = records.x[:DELETED]
        goal = teachers.probabilities(own).mean(0)
        values: Tensors = {name: value.clone().requires_grad_() for name, value in victim.moving.items()}
        optimizer = torch.optim.SGD(list(values.values()), lr=0.05, momentum=0.9)
        for _ in range(40):
            batch = records[DELETED + torch.randint(RECORDS - DELETED, (100,), generator=order)]
            logits = forward(victim.module, values, victim.buffers, torch.cat([batch.x, own]))
            loss = F.cross_entropy(logits[:100], batch.y) + 0.1 * F.cross_entropy(logits[100:], goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return Victim(victim.module, {name: value.detach() for name, value in values.items()}, victim.buffers)


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


class Stub:
    """A service that says of the examples what it is told to, with the same numbers of the others."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        self.predict = answer


def test_who_kept_or_fine_tuned_is_caught_by_mislabelled_records_and_who_retrained_is_not(world: World) -> None:
    retrained, untouched, tuned = (
        verified(QUICK, world.case(model)) for model in (world.retrained(), world.original, world.fine_tuned())
    )
    assert retrained.passed
    for verdict in (untouched, tuned):
        assert not verdict.passed
        assert verdict.p_value is not None
        assert verdict.p_value < 1e-4
        assert verdict.details["auc_mislabelled"] > 0.8
        assert "knows the mislabelled deleted records" in verdict.reason
    assert retrained.details["before_caught"] == 1
    assert retrained.details["before_statistic"] == untouched.statistic


def test_a_ruined_model_knows_nothing_and_its_accuracy_says_so(world: World) -> None:
    case = world.case(fresh(world.task.build, [7], world.data.test.x)[0], clean=True)
    verdict = verified(QUICK, case)
    assert not verdict.passed
    assert verdict.statistic <= verdict.threshold
    assert "auc_mislabelled" not in verdict.details
    assert verdict.details["accuracy"] < verdict.details["accuracy_verifiers"] - 0.02
    assert verdict.reason.startswith("Its accuracy")
    assert verified(replace(QUICK, accuracy=1.0), case).passed


def test_a_model_that_avoids_deleted_records_was_told_about_them(world: World) -> None:
    model = world.retrained()
    case = world.case(model, clean=True)
    avoided = case.task.records.x[case.deleted]

    def answer(x: Tensor) -> Tensor:
        p = model.probabilities(x)
        known = (x[:, None] == avoided).flatten(2).all(2).any(1)
        return torch.where(known[:, None], 0.1, p)  # a uniform guess

    verdict = verified(QUICK, replace(case, after=cast(Predictor, Stub(answer))))
    assert not verdict.passed
    assert verdict.statistic < verdict.threshold
    assert "avoids the clean deleted records" in verdict.reason
    assert verdict.details["auc_clean"] < verdict.details["floor_clean"]


def test_the_statistic_is_the_standardised_rank_test_of_z(world: World) -> None:
    """By hand from the verification models, and what these were trained on."""
    case, models, parts = world.case(world.original), list[ModelStack](), list[Tensor]()

    def kept(*arguments: object, **named: object) -> ModelStack:
        parts.append(arguments[1].x)  # type: ignore[attr-defined]
        models.append(train(*arguments, **named))  # type: ignore[arg-type]
        return models[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("defenses.verification.proof_of_ignorance.train", kept)
        verdict = verified(QUICK, case)
    retained = case.task.records.x[DELETED:].flatten(1)
    assert [len(part) for part in parts] == [120] * 3  # 15% of 800
    for part in parts:
        assert (part.flatten(1)[:, None] == retained).all(2).any(1).all()
    assert not torch.equal(parts[0], parts[1])
    assert verdict.gradients == 3 * 120 * OVERFITTED.epochs
    right = ~torch.isin(torch.arange(DELETED), world.secret)

    def z(x: Tensor, y: Tensor) -> Tensor:
        phi = torch.cat([log_odds(model.probabilities(x), y) for model in models]).double()
        centre = (phi[0] + phi[1] + phi[2]) / 3
        variance = ((phi - centre) ** 2).sum(0) / 2
        return (log_odds(case.after.predict(x), y) - centre) / (variance + 0.25).sqrt()

    own, held = case.task.records[:DELETED], case.trusted
    mine, theirs = z(own.x, own.y)[right], z(held.x, held.y)
    wins = float((mine[:, None] > theirs).double().mean())
    assert verdict.details["auc_clean"] == pytest.approx(wins, abs=1e-6)
    m, n = len(mine), len(theirs)
    spread = ((m + n + 1) / (12 * m * n)) ** 0.5
    assert verdict.details["z_clean"] == pytest.approx((wins - 0.5 - 0.5 / (m * n)) / spread, abs=1e-4)
    assert verdict.details["floor_clean"] == pytest.approx(0.5 - 2.8070 * spread, abs=1e-4)  # 0.005, two-sided
    assert verdict.threshold == pytest.approx(1.9600, abs=1e-4)  # 0.025: two groups share 0.05
    assert verdict.statistic == max(verdict.details["z_clean"], verdict.details["z_mislabelled"])
    assert verdict.level == pytest.approx(0.055)


def test_costs_are_counted_and_a_seed_decides_everything(world: World) -> None:
    meter, case = Meter(), world.case(world.original)
    counted = Predictor([world.original], meter)
    first, second = (verified(QUICK, replace(case, before=counted, after=counted)) for _ in range(2))
    assert first == second
    assert first.predictions == meter.predictions / 2 == 2 * (DELETED + 300) + 447
    assert all(isinstance(value, int | float) for value in first.details.values())


def test_owners_mislabel_their_share_and_remember_which() -> None:
    data = Digits(train=RECORDS, test=447, trusted=300, auxiliary=150).load()
    users = (torch.arange(0, 40), torch.arange(500, 560))
    found = prepared(ProofOfIgnorance(mislabelled=0.3), data, users, generator(0))
    changed = (found.records.y != data.train.y).nonzero()[:, 0]
    assert torch.equal(changed, found.secret.sort().values)
    assert [int(torch.isin(user, changed).sum()) for user in users] == [12, 18]
    assert torch.equal(found.records.x, data.train.x)
    assert 0 <= found.records.y.min() <= found.records.y.max() <= 9
    shifts = (found.records.y - data.train.y)[changed] % 10
    assert len(shifts.unique()) > 5  # of nine classes, with 30 draws
    nothing = prepared(ProofOfIgnorance(), data, users, generator(0))
    assert nothing.records is data.train
    assert len(nothing.secret) == 0


def test_too_little_to_test_is_one_sentence(world: World) -> None:
    data, task = world.data, world.task

    def refused(method: ProofOfIgnorance, data: Data, deleted: int) -> str:
        with pytest.raises(UserError) as error:
            method.check(data, (torch.arange(deleted),), task)
        return str(error.value)

    assert "at least 8 deleted records" in refused(QUICK, data, 7)
    assert "raise game.held_back, or data.trusted" in refused(QUICK, replace(data, trusted=data.trusted[:7]), 20)
    assert "gives 3 mislabelled records" in refused(replace(QUICK, mislabelled=0.03), data, 100)
    assert "gives 95 mislabelled records" in refused(replace(QUICK, mislabelled=0.95), data, 100)
    assert "would have 9 records for 10 classes" in refused(QUICK, data, RECORDS - 60)
    QUICK.check(data, USERS, task)
    replace(QUICK, mislabelled=0.3).check(data, USERS, task)


@pytest.mark.claims
def test_what_passes_the_proof_of_ignorance_and_what_does_not() -> None:
    """Ten draws of the records, each with a model of its own; K = 8. Fine-tuning does not pass, distillation may.

    Measured, mean AUC of the 70 clean deleted records (caught by it, of 10): untouched 0.568 (5), fine-tuned 0.576 (6),
    retrained 0.496 (0), ascended 0.50 (1), distilled 0.523 (2). Of another draw of 70 records the AUC differs by 0.04,
    which is why not every untouched model is caught. By 30 mislabelled records untouched, fine-tuned and distilled
    models are, with an AUC of 0.96 to 0.97 in place of 0.49 for retrained ones.
    """
    makers: dict[str, Callable[[World], Victim]] = {
        "untouched": lambda world: world.original,
        "fine-tuned": World.fine_tuned,
        "retrained": World.retrained,
        "ascended": World.ascended,
        "distilled": World.distilled,
    }
    clean: dict[str, list[Verdict]] = {name: [] for name in makers}
    both: dict[str, list[Verdict]] = {name: [] for name in makers}
    for seed in range(10):
        world = World(seed)
        for name, make in makers.items():
            released = make(world)
            clean[name].append(verified(ProofOfIgnorance(), world.case(released, clean=True)))
            both[name].append(verified(ProofOfIgnorance(), world.case(released)))

    def mean(verdicts: list[Verdict], what: str) -> float:
        return sum(verdict.details[what] for verdict in verdicts) / len(verdicts)

    def caught(verdicts: list[Verdict]) -> int:
        return sum(verdict.statistic > verdict.threshold for verdict in verdicts)

    area = {name: mean(verdicts, "auc_clean") for name, verdicts in clean.items()}
    for name in makers:
        print(
            f"{name}: AUC {area[name]:.3f}, caught by z {caught(clean[name])}, passed"
            f" {sum(verdict.passed for verdict in clean[name])}; accuracy {mean(clean[name], 'accuracy'):.3f} of"
            f" {mean(clean[name], 'accuracy_verifiers'):.3f}; with mislabelled records AUC"
            f" {mean(both[name], 'auc_mislabelled'):.3f}, caught by z {caught(both[name])},"
            f" passed {sum(verdict.passed for verdict in both[name])}"
        )
    for name in ("untouched", "fine-tuned"):
        assert 0.53 < area[name] < 0.61
        assert area[name] > area["retrained"] + 0.04
        assert caught(clean[name]) >= 3
    assert abs(area["retrained"] - 0.5) < 4 * 0.038 / 10**0.5  # the spread of the null for 70 and 300, over 10 draws
    for verdicts in (clean["retrained"], both["retrained"]):
        assert sum(verdict.passed for verdict in verdicts) >= 8  # fewer at a level of 0.055: 1.5%
    for name in ("untouched", "fine-tuned", "distilled"):
        assert caught(both[name]) == 10
        assert mean(both[name], "auc_mislabelled") > 0.9
    assert abs(mean(both["retrained"], "auc_mislabelled") - 0.5) < 4 * 0.056 / 10**0.5  # for 30 and 300
    assert caught(clean["ascended"]) <= 3  # by z alone it would pass
    assert not any(verdict.passed for verdict in clean["ascended"])
    assert all(
        verdict.details["accuracy"] < verdict.details["accuracy_verifiers"] - 0.02 for verdict in clean["ascended"]
    )
    assert sum(verdict.passed for verdict in clean["distilled"]) >= 7
