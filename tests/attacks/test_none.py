from __future__ import annotations

import math

from attacks.none import NoAttack
from data.randomness import generator
from tests.attacks.checks import bed


def test_every_request_is_empty_and_the_service_is_not_touched() -> None:
    of = bed(0)
    aims = of.aims(of.targets(3))
    found = NoAttack(budget=5).craft([], aims, of.attacker(), generator(0, "attack"))
    assert [len(each.request) for each in found] == [0, 0, 0]
    assert all(math.isnan(each.objective) for each in found)
    assert NoAttack.game == "any"
