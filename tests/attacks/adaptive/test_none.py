"""Without a strategy everything is as it was: the search's own answer, bit by bit."""

from __future__ import annotations

import pytest

from attacks.adaptive.none import NotAdaptive
from attacks.requester.misclassification import Misclassification
from attacks.requester.one_shot_influence import OneShotInfluence
from attacks.requester.uncertainty import Uncertainty
from data.randomness import generator
from tests.attacks.checks import bed, opened


@pytest.mark.parametrize("kind", [Uncertainty, Misclassification, OneShotInfluence], ids=lambda k: k.__name__)
def test_craft_is_the_search(kind: type) -> None:
    of = bed(0)
    goals, attack = (
        of.goals(of.in_band(0.75, 0.95, 3), 1),
        kind(budget=5, **({} if kind is OneShotInfluence else {"access": "white_box"})),
    )
    assert attack.adaptive == NotAdaptive()
    found = attack.craft([opened(of)], goals, of.attacker(), generator(0, "attack"))
    assert found == attack.search_white_box(opened(of), goals, of.attacker(), generator(0, "attack"))
    assert all(each.tried == () for each in found)
