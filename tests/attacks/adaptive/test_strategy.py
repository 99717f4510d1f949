"""The role: what a strategy may be, what it is refused, and that an own one is one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
from pydantic.dataclasses import dataclass

from attacks.adaptive.aligned_copies import AlignedCopies
from attacks.adaptive.auto import Auto
from attacks.adaptive.calibration_poisoning import CalibrationPoisoning
from attacks.adaptive.none import NotAdaptive, strategy_of
from attacks.adaptive.norm_cap import NormCap
from attacks.adaptive.score_penalty import ScorePenalty
from attacks.adaptive.strategy import STRICT, Adaptive, Crafting
from attacks.crafting.attack import Attacker, AttackResult
from attacks.requester.misclassification import Misclassification
from attacks.requester.nearest import Nearest
from attacks.requester.uncertainty import Uncertainty
from data.errors import UserError
from data.randomness import generator
from defenses.filters.influence import Influence
from tests.attacks.adaptive.played import crafted
from tests.attacks.checks import bed, opened

OPENING = (NormCap(), ScorePenalty(), CalibrationPoisoning(), AlignedCopies(), Auto())


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Shortest(Adaptive):
    """An own strategy: the first record of every request."""

    name: ClassVar[str] = "shortest"

    def craft(self, crafting: Crafting, attacker: Attacker) -> list[AttackResult]:
        return crafting.search(attacker, 1)


@pytest.mark.parametrize("strategy", OPENING, ids=lambda s: s.name)
def test_what_looks_into_the_model_is_refused_to_a_black_box(strategy: Adaptive) -> None:
    with pytest.raises(
        ValueError, match=rf"attack/adaptive={strategy.name} needs the victim .* attack.access=white_box"
    ):
        Uncertainty(access="black_box", adaptive=strategy)
    Misclassification(access="white_box", adaptive=strategy)


@pytest.mark.parametrize("strategy", OPENING[1:], ids=lambda s: s.name)
def test_what_plays_against_a_filter_needs_one(strategy: Adaptive) -> None:
    of = bed(0)
    goals, attack = of.goals(of.targets(1)), Misclassification(budget=3, access="white_box", adaptive=strategy)
    with pytest.raises(UserError, match=rf"{strategy.name} plays against a filter .* as in defense=influence"):
        attack.craft([opened(of)], goals, of.attacker(), generator(0, "attack"))


def test_an_own_strategy_is_one_class() -> None:
    of = bed(0)
    goals = of.goals(of.targets(2))
    plain, first = (crafted(of, each, Influence(), goals) for each in (NotAdaptive(), Shortest()))
    assert [each.request.indices for each in first] == [each.request.indices[:1] for each in plain]
    with pytest.raises(ValueError, match="instance of Adaptive"):
        Uncertainty(adaptive="auto")  # type: ignore[arg-type]


def test_an_attack_without_the_option_has_no_strategy() -> None:
    assert strategy_of(Nearest()) == strategy_of(object()) == NotAdaptive()
    assert strategy_of(Uncertainty(adaptive=Auto())) == Auto()


def test_a_search_can_be_asked_for_some_goals_from_another_pool() -> None:
    of, seen = bed(0), list[Sequence[int]]()

    @dataclass(frozen=True, kw_only=True, config=STRICT)
    class Second(Adaptive):
        name: ClassVar[str] = "second"

        def craft(self, crafting: Crafting, attacker: Attacker) -> list[AttackResult]:
            few = replace(attacker, pool=attacker.pool[:5], owned=attacker.owned[:5])
            [one] = crafting.search(few, 4, [1])
            seen.append(one.request.indices)
            return [one, one]

    goals = of.goals(of.targets(2))
    crafted(of, Second(), Influence(), goals)
    assert len(seen[0]) == 4
    assert set(seen[0]) <= set(range(5))
