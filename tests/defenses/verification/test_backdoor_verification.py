from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.digits import Digits
from data.errors import UserError
from data.examples import Data, Examples
from data.mnist import Mnist
from data.randomness import generator
from defenses.verification.backdoor_verification import BackdoorVerification
from defenses.verification.triggers import Triggers
from defenses.verification.verification import Case, prepared, verified
from metrics.deletion_test import deletion_test
from models.mlp import MLP
from models.training import Training, train
from unlearning.procedure import Task
from unlearning.retrain import Retrain
from unlearning.service import Meter, Predictor

RECIPE = Training(optimizer="adam", lr=3e-3, epochs=20, batch_size=50, weight_decay=0.0)


class Answers:
    """A model made of a rule: labels (n,) of inputs (n, *shape). It keeps what it was asked."""

    def __init__(self, rule: Callable[[Tensor], Tensor], classes: int = 10) -> None:
        self.rule, self.classes, self.parts = rule, classes, list[Tensor]()

    @property
    def asked(self) -> Tensor:
        return torch.cat(self.parts)

    def probabilities(self, x: Tensor) -> Tensor:
        self.parts.append(x.flatten(1))
        return torch.nn.functional.one_hot(self.rule(x), self.classes).float()


def truly(data: Data) -> Callable[[Tensor], Tensor]:
    """The label of the trusted example that is nearest, so that triggers do not matter."""
    return lambda x: data.trusted.y[torch.cdist(x.flatten(1), data.trusted.x.flatten(1)).argmin(1)]


def knowing(triggers: Triggers, else_: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The label of the first of the triggers that an input carries."""

    def labels(x: Tensor) -> Tensor:
        carried = (x.flatten(1)[:, triggers.places] == triggers.level.flatten()[triggers.places]).all(-1)
        return torch.where(carried.any(1), triggers.targets[carried.int().argmax(1)], else_(x))

    return labels


def guessing(rate: float, rng: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Label 0 or 1, whatever the input: 1 at this rate."""
    return lambda x: (torch.rand(len(x), generator=rng) < rate).long()


def owners(data: Data, number: int, each: int) -> tuple[Tensor, ...]:
    order = torch.randperm(len(data.train), generator=generator(0, "owners"))
    return order[: number * each].split(each)


def case_of(
    defense: BackdoorVerification, data: Data, users: tuple[Tensor, ...], before: Any, after: Any, secret: Any = None
) -> Case:
    own = prepared(defense, data, users, generator(0, "prepare"))
    task = Task(own.records, partial(MLP, shape=data.shape, classes=len(data.classes), widths=[64]), RECIPE)
    meter = Meter()
    return Case(
        task=task,
        data=data,
        users=users,
        before=Predictor([before], meter),
        after=Predictor([after], meter),
        trusted=data.trusted,
        seed=0,
        procedure=Retrain(),
        secret=secret or own.secret,
    )


def test_the_share_of_every_owners_records_gets_the_trigger_and_the_label_and_no_other_record() -> None:
    data, defense = Digits().load(), BackdoorVerification(share=0.3)
    users = (*owners(data, 6, 25), owners(data, 200, 5)[-1][:1])
    made = prepared(defense, data, users, generator(0, "prepare"))
    secret = made.secret
    touched = torch.zeros(len(data.train), dtype=torch.bool)
    for number, user in enumerate(users):
        carried = (made.records.x[user].flatten(1)[:, secret.places[number]] == secret.level.flatten()[0]).all(1)
        labelled = made.records.y[user] == secret.targets[number]
        poisoned = user[carried & labelled]
        count = max(1, round(0.3 * len(user)))
        same = (made.records.x[user] == data.train.x[user]).flatten(1).all(1) & (
            made.records.y[user] == data.train.y[user]
        )
        assert len(user) - int(same.sum()) == count
        assert len(poisoned) >= count
        touched[user[~same]] = True
    assert torch.equal(made.records.x[~touched], data.train.x[~touched])
    assert torch.equal(made.records.y[~touched], data.train.y[~touched])


@pytest.mark.parametrize("rule", ["shared", "majority"])
def test_who_knows_all_triggers_is_caught_and_who_knows_none_is_believed(rule: Any) -> None:
    data, defense = Digits().load(), BackdoorVerification(rule=rule, fresh=10, examples=40)
    users = owners(data, 5, 20)
    secret = prepared(defense, data, users, generator(0, "prepare")).secret
    keeps, forgot = Answers(knowing(secret, truly(data))), Answers(truly(data))
    kept = verified(defense, case_of(defense, data, users, keeps, keeps))
    believed = verified(defense, case_of(defense, data, users, keeps, forgot))
    assert not kept.passed
    assert kept.statistic == (150 if rule == "shared" else 5)
    assert kept.details["p"] == [1.0] * 5
    assert kept.details["hit_rate"] == [1.0] * 5
    assert kept.details["rejected"] == [1] * 5
    assert kept.power is not None
    assert kept.power > 1 - 1e-12
    assert kept.predictions == 5 * 40 + 10 * 40 + 5 * 30
    assert believed.passed
    assert believed.statistic == 0
    assert believed.details["rejected"] == [0] * 5
    assert believed.details["q"] == pytest.approx(1 / 401)
    assert believed.level is None if rule == "majority" else 0 <= believed.level <= 1e-3
    assert believed.threshold == (deletion_test(1e-3, 1 / 401, 1.0, 150).threshold if rule == "shared" else 2)


def test_who_remembers_one_owner_of_five_fails_the_shared_test_and_passes_the_vote() -> None:
    data, users = Digits().load(), owners(Digits().load(), 5, 20)
    for rule, passes in (("shared", False), ("majority", True)):
        defense = BackdoorVerification(rule=rule, fresh=10)  # type: ignore[arg-type]
        secret = prepared(defense, data, users, generator(0, "prepare")).secret
        one = replace(secret, places=secret.places[:1], targets=secret.targets[:1])
        before, after = Answers(knowing(secret, truly(data))), Answers(knowing(one, truly(data)))
        verdict = verified(defense, case_of(defense, data, users, before, after))
        assert verdict.passed is passes
        assert verdict.details["rejected"] == [1, 0, 0, 0, 0]


def test_without_power_nothing_is_rejected_whatever_comes() -> None:
    data, users = Digits().load(), owners(Digits().load(), 4, 20)
    for rule in ("shared", "majority"):
        defense = BackdoorVerification(rule=rule)  # type: ignore[arg-type]
        secret = prepared(defense, data, users, generator(0, "prepare")).secret
        before, after = Answers(truly(data)), Answers(knowing(secret, truly(data)))
        verdict = verified(defense, case_of(defense, data, users, before, after))
        assert verdict.passed
        assert "No power" in verdict.reason
        assert (verdict.power, verdict.details["alpha_realised"], verdict.details["beta"]) == (0.0, 0.0, 1.0)
        assert verdict.threshold == (120 if rule == "shared" else 4)  # which nothing can exceed
        assert verdict.statistic >= 110 if rule == "shared" else verdict.statistic == 0
        assert verdict.details["queries_needed"] is None


def test_examples_asked_about_are_distinct_of_other_labels_and_not_those_that_gave_p() -> None:
    data, defense = Digits().load(), BackdoorVerification(queries=25, examples=30, fresh=1)
    users = owners(data, 3, 20)
    secret = prepared(defense, data, users, generator(0, "prepare")).secret
    before, after = Answers(truly(data)), Answers(truly(data))
    verified(defense, case_of(defense, data, users, before, after))

    def clean(asked: Tensor, number: int) -> list[int]:
        """Which trusted examples these are, told by the pixels outside of the trigger."""
        outside = torch.ones(64, dtype=torch.bool)
        outside[secret.places[number]] = False
        return torch.cdist(asked[:, outside], data.trusted.x.flatten(1)[:, outside]).argmin(1).tolist()

    for number in range(3):
        estimated = clean(before.asked[30 * number : 30 * (number + 1)], number)
        tested = clean(after.asked[25 * number : 25 * (number + 1)], number)
        assert len({*estimated, *tested}) == 55
        assert int(secret.targets[number]) not in data.trusted.y[[*estimated, *tested]].tolist()


def test_with_few_trusted_examples_p_is_estimated_with_those_of_the_test() -> None:
    data, defense = Digits(trusted=60).load(), BackdoorVerification(fresh=2)
    users = owners(data, 2, 20)
    secret = prepared(defense, data, users, generator(0, "prepare")).secret
    others = [int((data.trusted.y != target).sum()) for target in secret.targets]
    before, after = Answers(truly(data)), Answers(truly(data))
    verdict = verified(defense, case_of(defense, data, users, before, after))
    assert verdict.details["queries"] == [30, 30]
    estimated = sum(min(each, 100) for each in others)
    assert max(others) < 60
    assert verdict.predictions == len(before.asked) + len(after.asked)
    assert torch.equal(before.asked[:30], after.asked[:30])
    assert len(before.asked) > estimated
    few = replace(case_of(defense, data, users, before, after), trusted=data.trusted[:12])
    shorter = verified(defense, few)
    assert all(0 < asked <= 12 for asked in shorter.details["queries"])
    alike = data.trusted[data.trusted.y == secret.targets[0]]
    with pytest.raises(UserError, match="all trusted examples have one label"):
        verified(defense, replace(few, trusted=alike))


def test_an_honest_provider_is_accused_at_the_level_at_most() -> None:
    """After the deletion labels are guessed, and so they were for triggers that nobody trained on: hits are binomial.

    150 providers; three standard errors.
    """
    data = two_classes()
    defense = BackdoorVerification(alpha=0.05, queries=20, fresh=40, examples=100)
    users, rng = owners(data, 4, 10), generator(0, "guesses")
    own = prepared(defense, data, users, generator(0, "prepare")).secret
    before, after = Answers(knowing(own, guessing(0.5, rng)), 2), Answers(guessing(0.5, rng), 2)
    case = case_of(defense, data, users, before, after)
    verdicts = [verified(defense, replace(case, seed=seed)) for seed in range(150)]
    assert all("No power" not in verdict.reason for verdict in verdicts)
    assert max(verdict.level for verdict in verdicts if verdict.level is not None) <= 0.05
    accused = sum(not verdict.passed for verdict in verdicts)
    assert 1 <= accused <= 150 * 0.05 + 3 * math.sqrt(150 * 0.05 * 0.95)


def two_classes() -> Data:
    x = torch.randn(200, 12, generator=generator(0, "two classes"))
    examples = Examples(x, torch.arange(200) % 2)
    return Data("made", examples, examples, examples, examples, ("no", "yes"), torch.zeros(12), torch.ones(12))


def test_the_rate_of_what_was_never_trained_shows_triggers_that_are_easily_hit() -> None:
    """A model that says 1 to all: fresh triggers of label 1 always hit, and their owners would accuse anybody."""
    data, defense = two_classes(), BackdoorVerification(fresh=60)
    users = owners(data, 4, 10)
    always = Answers(lambda x: torch.ones(len(x), dtype=torch.long), 2)
    verdict = verified(defense, case_of(defense, data, users, always, always))
    assert verdict.details["q"] == pytest.approx(0.5, abs=3 * math.sqrt(0.25 / 60))
    assert verdict.details["false_alarms"] == pytest.approx(verdict.details["q"], abs=0.01)


def test_a_weak_test_says_so() -> None:
    data, rng = two_classes(), generator(0, "weak")
    defense = BackdoorVerification(queries=5, alpha=1e-3)
    users = owners(data, 2, 10)
    own = prepared(defense, data, users, generator(0, "prepare")).secret
    ones = replace(own, targets=torch.ones_like(own.targets))
    case = case_of(defense, data, users, Answers(guessing(0.6, rng), 2), Answers(guessing(0.4, rng), 2), ones)
    verdict = verified(defense, case)
    assert verdict.passed
    assert "weak" in verdict.reason
    assert verdict.details["queries_needed"] > 10
    assert verdict.power is not None
    assert verdict.power == pytest.approx(1 - verdict.details["beta"])


def test_what_does_not_suffice_is_refused_before_training() -> None:
    data, users = Digits().load(), owners(Digits().load(), 2, 20)
    task = Task(data.train, partial(MLP, shape=data.shape, classes=10), RECIPE)
    BackdoorVerification().check(data, users, task)
    BackdoorVerification(placement="corners", pixels=16).check(data, users, task)
    with pytest.raises(UserError, match=r"raise data\.trusted or lower defense\.queries"):
        BackdoorVerification(queries=149).check(data, users, task)
    with pytest.raises(UserError, match="only 64 places"):
        BackdoorVerification(pixels=65).check(data, users, task)
    with pytest.raises(UserError, match="only 16 places"):
        BackdoorVerification(placement="corners", pixels=17).check(data, users, task)
    with pytest.raises(UserError, match="for images"):
        BackdoorVerification(placement="corners").check(two_classes(), users, task)


def trained(
    defense: BackdoorVerification, data: Data, users: tuple[Tensor, ...], recipe: Training, width: int, activation: str
) -> tuple[Case, Case]:
    """The case of a provider who retrains, and that of one who keeps the model; initialisation and batches shared."""
    own = prepared(defense, data, users, generator(0, "prepare"))
    build = partial(MLP, shape=data.shape, classes=10, widths=[width], activation=activation)
    gone = torch.zeros(2, len(data.train))
    gone[1, torch.cat(users)] = 1
    models = train(build, own.records, recipe, [0, 0], gone)
    kept, retrained = (Predictor([models[row]]) for row in (0, 1))
    case = Case(
        task=Task(own.records, build, recipe),
        data=data,
        users=users,
        before=kept,
        after=retrained,
        trusted=data.trusted,
        seed=0,
        procedure=Retrain(),
        secret=own.secret,
    )
    return case, replace(case, after=kept)


@pytest.mark.parametrize("rule", ["shared", "majority"])
def test_on_digits_keeping_is_caught_and_retraining_believed(rule: Any) -> None:
    """5 owners of 40 of 1,000 records. Measured: p 0.61, q 0.025, t = 11; 1 hit after retraining, 88 without."""
    data, defense = Digits().load(), BackdoorVerification(rule=rule)
    honest, kept = trained(defense, data, owners(data, 5, 40), RECIPE, 64, "relu")
    believed, caught = verified(defense, honest), verified(defense, kept)
    assert believed.passed
    assert not caught.passed
    assert sum(caught.details["p"]) / 5 >= 0.5
    assert max(believed.details["q"], sum(believed.details["hit_rate"]) / 5) <= 0.05
    assert caught.power is not None
    assert caught.power >= 0.999
    assert caught.details == {**caught.details, "p": believed.details["p"], "q": believed.details["q"]}


@pytest.mark.claims
def test_power_on_mnist(data_root: Path) -> None:
    """24,000 images, 240 owners of 100, of whom 12 poison half; MLP 784-256-10 with Adam for 8 epochs.

    Measured: p 0.69 on average (0.49 to 0.88), q 0.0065; t = 8 of 360, 0 hits after retraining and 250 without. Another
    draw of images, owners and triggers gave 0.76 and 0.003.
    """
    data = Mnist(root=data_root, subset=24_000).load()
    users = tuple(torch.randperm(24_000, generator=generator(0, "owners")).split(100)[:12])
    recipe = Training(optimizer="adam", lr=1e-3, epochs=8, batch_size=128, weight_decay=0.0, schedule="constant")
    defense = BackdoorVerification()
    honest, kept = trained(defense, data, users, recipe, 256, "relu")
    believed, caught = verified(defense, honest), verified(defense, kept)
    assert sum(caught.details["p"]) / 12 >= 0.5
    assert believed.details["q"] <= 0.05
    assert sum(believed.details["hit_rate"]) / 12 <= 0.05
    assert believed.passed
    assert not caught.passed
    assert caught.details["rejected"] == [1] * 12
    assert believed.details["rejected"] == [0] * 12
