from __future__ import annotations

import math

from attacks.none import NoAttack
from data.randomness import generator
from tests.attacks.checks import bed, closed
from unlearning.fine_tune import FineTune


def test_every_request_is_empty_and_the_service_is_not_touched() -> None:
    of = bed(0)
    goals = of.goals(of.targets(3))
    services = [closed(of, FineTune(), 1)[0] for _ in goals]
    found = NoAttack(budget=5).craft(services, goals, of.attacker(), generator(0, "attack"))
    assert [len(each.request) for each in found] == [0, 0, 0]
    assert all(math.isnan(each.objective) for each in found)
    assert NoAttack.game == "any"
