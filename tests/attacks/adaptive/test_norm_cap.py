"""The norm cap as a strategy is the attack's own setting at 0.7, and what it does against S1."""

from __future__ import annotations

from attacks.adaptive.none import NotAdaptive
from attacks.adaptive.norm_cap import NormCap
from attacks.crafting.functionals import LogitGap
from attacks.requester.one_shot_influence import OneShotInfluence
from data.randomness import generator
from defenses.filters.influence import Influence
from tests.attacks.adaptive.played import outcome
from tests.attacks.checks import bed, opened

S1 = Influence(score="S1")


def asked(**options: object) -> list[tuple[int, ...]]:
    of = bed(0)
    attack = OneShotInfluence(budget=15, functional=LogitGap(), **options)  # type: ignore[arg-type]
    found = attack.craft([opened(of)], of.goals(of.targets(4)), of.attacker(), generator(0, "attack"))
    return [each.request.indices for each in found]


def test_it_is_the_setting_of_the_attack() -> None:
    assert asked(adaptive=NormCap()) == asked(norm_cap=0.7) != asked()
    assert asked(adaptive=NormCap(quantile=0.5)) == asked(norm_cap=0.5)


def test_the_setting_takes_the_place_of_its_quantile() -> None:
    assert asked(adaptive=NormCap(), norm_cap=0.9) == asked(norm_cap=0.9) != asked(norm_cap=0.7)


def test_it_costs_success_and_buys_a_worse_filter() -> None:
    """On 24 targets; its numbers stand in docs/attacks.md."""
    plain, capped = outcome(NotAdaptive(), S1), outcome(NormCap(), S1)
    print("plain", plain)
    print("capped", capped)
    assert capped.mixed < plain.mixed  # the price
    assert capped.auroc < plain.auroc - 0.15
    assert capped.filtered > plain.filtered
    assert capped.control < capped.filtered
