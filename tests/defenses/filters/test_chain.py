"""Several filters in a row: who decides, what is deleted instead, and thresholds from one calibration, once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from defenses.defense import Calibrated, Calibration, Context, Verdict, reviewed
from defenses.filters.chain import Chain
from defenses.filters.cusum import Cusum, Sums
from defenses.filters.influence import Influence
from defenses.filters.membership_check import MembershipCheck
from defenses.filters.norm import Norm
from defenses.filters.set_level import SetLevel
from experiments.play.play import cached
from experiments.play.setup import prepare
from tests.attacks.checks import bed
from tests.defenses.filters.batches import attacked, benign, calibrated
from tests.defenses.filters.test_set_level import seen
from tests.experiments.games import config


@dataclass(frozen=True, eq=False)
class Fixed:
    """Rejects what it is told, and says what is deleted instead; notes what it was shown."""

    rejects: tuple[int, ...] = ()
    instead: tuple[int, ...] | None = None
    shown: list[Context] = field(default_factory=list)

    def review(self, context: Context, requests: Tensor) -> Verdict:
        self.shown.append(context)
        accepted = torch.ones(len(requests), dtype=torch.bool)
        accepted[list(self.rejects)] = False
        instead = None if self.instead is None else torch.tensor(self.instead)
        return Verdict(torch.zeros(len(requests)), accepted, 0.0, instead)


@dataclass(frozen=True, eq=False)
class Counting(Fixed):
    """Has a threshold that costs something."""

    asked: list[int] = field(default_factory=list)

    def threshold(self, context: Context) -> float:
        self.asked.append(len(context.calibration))
        return float(len(context.calibration))


def context(calibration: int = 0) -> Context:
    of = bed(0)
    batches = [Calibration(torch.arange(5), of.victim) for _ in range(calibration)]
    return Context(of.task, of.victim, of.victim, of.trusted, batches, threshold=99.0)


def test_a_request_is_accepted_if_every_filter_accepts_it() -> None:
    """The score is the number of filters that do not."""
    chain = Chain(filters=[Fixed((0, 1)), Fixed(), Fixed((1, 3))])
    verdict = reviewed(chain, context(), torch.arange(4))
    assert verdict.scores.tolist() == [1, 2, 0, 1]
    assert verdict.accepted.tolist() == [False, False, True, False]
    assert torch.equal(verdict.accepted, ~(verdict.scores > verdict.threshold))
    assert verdict.instead is None


def test_the_first_that_names_a_record_decides_what_is_deleted_instead() -> None:
    """And the filters behind it see that stored record where a copy was sent."""
    last = Fixed()
    chain = Chain(filters=[Fixed(instead=(-1, 7, -1)), Fixed(instead=(8, 9, -1)), last])
    of = bed(0)
    copies = Examples(of.task.records.x[:3] + 1, of.task.records.y[:3])
    verdict = reviewed(chain, replace(context(), submitted=copies), torch.arange(3))
    assert verdict.instead is not None
    assert verdict.instead.tolist() == [8, 7, -1]
    [seen] = last.shown
    assert seen.submitted is not None
    assert torch.equal(seen.submitted.x, torch.cat([of.task.records.x[[8, 7]], copies.x[2:]]))
    assert torch.equal(seen.submitted.y, torch.cat([of.task.records.y[[8, 7]], copies.y[2:]]))
    assert torch.equal(copies.x, of.task.records.x[:3] + 1)  # not written into
    assert reviewed(chain, context(), torch.arange(3)).instead.tolist() == [8, 7, -1]  # type: ignore[union-attr]


def test_every_threshold_comes_from_the_same_calibration_and_once() -> None:
    """A chain has no threshold of its own, and hands none on to a filter that has none."""
    first, second, without = Counting(), Counting(), Fixed()
    chain, seen = Chain(filters=[first, second, without]), context(3)
    assert not isinstance(chain, Calibrated)
    for _ in range(4):
        chain.review(seen, torch.arange(2))
    assert first.asked == second.asked == [3]
    assert [each.threshold for each in first.shown] == [3.0] * 4
    assert [each.threshold for each in without.shown] == [None] * 4
    chain.review(context(2), torch.arange(2))  # another calibration
    assert first.asked == [3, 2]
    chain.review(context(0), torch.arange(2))
    assert first.shown[-1].threshold == 0.0


def test_its_filters_decide_as_they_do_alone() -> None:
    found = attacked(0, None)
    seen, batch = found.context(0), found.batches[0]
    parts = [Influence(), Norm(), SetLevel(points=50)]
    alone = torch.stack([each.review(seen, batch).accepted for each in parts])
    chain = Chain(filters=parts)
    assert torch.equal(chain.review(seen, batch).accepted, alone.all(0))
    assert torch.equal(Chain(filters=[chain]).review(seen, batch).accepted, alone.all(0))  # chains of chains


def test_what_cannot_be_calibrated_is_said_before() -> None:
    chain = Chain(filters=[MembershipCheck(), SetLevel(), Norm(rate=0.001)])
    chain.check_calibration(1000)
    with pytest.raises(UserError, match=r"defense\.rate=0\.001 cannot be calibrated with 100"):
        chain.check_calibration(100)


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ([], "filters must be a list of filters"),
        (Norm(), "filters must be a list of filters"),
        ("norm", "filters must be a list of filters"),
        ([1], "filters holds 1, which is no filter"),
        ([Norm], "which is no filter"),
    ],
    ids=["none", "one", "a word", "a number", "a class"],
)
def test_what_is_no_list_of_filters_is_refused(filters: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Chain(filters=filters)


def test_a_filter_of_another_game_is_refused() -> None:
    from defenses.verification.gaussian_score import GaussianScore

    class Both(GaussianScore):
        def review(self, context: Context, requests: Tensor) -> Verdict:
            return Verdict(torch.zeros(len(requests)), torch.ones_like(requests, dtype=torch.bool), 0.0)

    with pytest.raises(ValueError, match="which plays the verification game"):
        Chain(filters=[Both()])


def test_a_chain_is_played_and_calibrated_before_anything_is_trained(tmp_path: Path) -> None:
    """As YAML has it: what one of its filters rejects alone is quarantined, and its settings are part of the key."""
    norm = {"_target_": "defenses.filters.norm.Norm", "rate": 0.2}
    level = {"_target_": "defenses.filters.set_level.SetLevel", "points": 20}
    chosen = config(tmp_path, "attack=one_shot_influence", "unlearning=first_order", "judge=quick")

    def play(defense: dict[str, Any]) -> dict[str, Any]:
        return cached(prepare({**chosen, "defense": defense}), 0)[0]["detection"]

    parts = [play(norm), play(level)]
    both = play({"_target_": "defenses.filters.chain.Chain", "filters": [norm, level]})
    for alone, other, together in zip(*(each["quarantined"] for each in (*parts, both)), strict=True):
        assert set(together) == {*alone, *other}
    assert any(both["quarantined"])
    assert both["defense"] == "chain"
    few = {**norm, "rate": 0.001}
    with pytest.raises(UserError, match=r"defense\.rate=0\.001 cannot be calibrated with 48"):
        prepare({**chosen, "defense": {"_target_": "defenses.filters.chain.Chain", "filters": [level, few]}})


def test_every_filter_of_a_chain_remembers_its_own() -> None:
    """The sums of the second go on from batch to batch as they do alone; sequences that are too long are refused."""
    sums = Cusum(length=3, sequences=200, points=10)
    chain, first = Chain(filters=(Norm(rule="robust_z", z=100.0), sums)), seen(0)
    calibration = calibrated(bed(0), benign(0, "calibration", 2))
    memory: object | None = None
    alone: object | None = None
    for batch in benign(0, "sequence", 3, 20):
        context = replace(first, calibration=calibration)
        together = chain.review(replace(context, remembered=memory), batch)
        single = sums.review(replace(context, remembered=alone), batch)
        memory, alone = together.remembered, single.remembered
        assert isinstance(memory, tuple)
        assert memory[0] is None
        assert isinstance(memory[1], Sums)
        assert isinstance(alone, Sums)
        assert torch.equal(memory[1].up, alone.up)
    assert alone.batches == 3  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"defense\.length=3"):
        chain.check_sequence(4, 20, 300)
