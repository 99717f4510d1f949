"""Flagged records are left out round by round, what counts is the best trial, and what it does against filters."""

from __future__ import annotations

import pytest

from attacks.adaptive.none import NotAdaptive
from attacks.adaptive.score_penalty import ScorePenalty
from defenses.filters.influence import Influence
from tests.attacks.adaptive.played import crafted, knowing, outcome
from tests.attacks.checks import bed

S1 = Influence(score="S1")


def test_one_round_is_the_plain_attack() -> None:
    of = bed(0)
    goals = of.goals(of.targets(3))
    once, plain = (crafted(of, each, S1, goals) for each in (ScorePenalty(rounds=1), NotAdaptive()))
    assert [each.request for each in once] == [each.request for each in plain]


def test_no_trial_is_worth_less_than_the_plain_attacks_and_fewer_are_flagged() -> None:
    of = bed(0)
    goals = of.goals(of.targets(6))
    plain, found = (crafted(of, each, S1, goals) for each in (NotAdaptive(), ScorePenalty()))
    knows = knowing(of, S1, goals)[1].knows
    assert knows is not None
    before, after = (knows.trials([each.request for each in r], range(6)) for r in (plain, found))
    assert all(one.worth <= other.worth for one, other in zip(before, after, strict=True))
    assert sum(int((~t.accepted).sum()) for t in after) < sum(int((~t.accepted).sum()) for t in before)
    again = crafted(of, ScorePenalty(), S1, goals)
    assert [each.request for each in again] == [each.request for each in found]


@pytest.mark.parametrize("score", ["S1", "S8"])
def test_more_of_it_passes_the_filter(score: str) -> None:
    """In streams and with a calibration that it has not seen."""
    defense = Influence(score=score)  # type: ignore[arg-type]
    plain, adaptive = outcome(NotAdaptive(), defense), outcome(ScorePenalty(), defense)
    print(score, "plain", plain, "adaptive", adaptive)
    assert adaptive.auroc < plain.auroc
    assert adaptive.filtered >= plain.filtered
    assert adaptive.control < adaptive.filtered
