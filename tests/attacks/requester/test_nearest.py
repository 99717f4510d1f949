from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal
from attacks.requester.nearest import Classes, Nearest, nearest_records
from attacks.requester.random import Random
from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.last_layer import features
from tests.attacks import checks
from tests.attacks.checks import bed, confidence_change, crafted, unlearned
from unlearning.fine_tune import FineTune
from unlearning.sisa import Sisa


def by_hand(goal: AttackGoal, attacker: Attacker, budget: int, keep) -> list[int]:  # type: ignore[no-untyped-def]
    """Turn after turn: of the records that are left the one nearest to the target whose turn it is, by plain Python."""
    rows = list(zip(attacker.pool.tolist(), attacker.owned.x.tolist(), attacker.owned.y.tolist(), strict=True))
    taken: list[int] = []
    while len(taken) < budget:
        before = len(taken)
        for x, label in zip(goal.x.tolist(), goal.labels.tolist(), strict=True):
            left = [(math.dist(x, r), i) for i, r, y in rows if i not in taken and keep(y, label)]
            if left and len(taken) < budget:
                taken.append(min(left)[1])
        if len(taken) == before:
            break
    return taken


RULES = {"same": lambda y, label: y == label, "other": lambda y, label: y != label, "any": lambda y, label: True}


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("classes", RULES)
def test_names_the_nearest_records_and_targets_take_turns(classes: Classes, targets: int) -> None:
    of, pool = bed(0), torch.arange(0, 300, 3)
    positions = of.targets(2 * targets).reshape(2, targets)
    labels = of.victim.logits(of.test.x).argmax(-1)
    goals = [AttackGoal(of.test.x[each], labels[each], 1) for each in positions]
    found = nearest_records(goals, of.attacker(pool), 25, classes)
    assert [each.tolist() for each in found] == [by_hand(goal, of.attacker(pool), 25, RULES[classes]) for goal in goals]


def test_auto_takes_away_what_holds_the_prediction_where_it_was() -> None:
    of = bed(1)
    for direction, classes in ((1, "same"), (-1, "other")):
        goals = of.goals(of.targets(4), direction)
        auto, said = (nearest_records(goals, of.attacker(), 9, each) for each in ("auto", classes))  # type: ignore[arg-type]
        assert all(torch.equal(one, other) for one, other in zip(auto, said, strict=True))


def test_a_smaller_budget_is_a_prefix_and_a_short_supply_a_shorter_request() -> None:
    of = bed(2)
    goals = of.goals(of.targets(3))
    long, short = (nearest_records(goals, of.attacker(), budget) for budget in (20, 7))
    assert all(torch.equal(one[:7], other) for one, other in zip(long, short, strict=True))
    few = torch.cat([(of.task.records.y == k).nonzero()[:2, 0] for k in range(3)])
    assert all(len(each) == 2 for each in nearest_records(goals, of.attacker(few), 5, "same"))


def test_distances_survive_a_large_offset() -> None:
    """Differences are taken before squares, so records far from the origin keep their order."""
    x = 1e4 + torch.arange(40.0)[:, None].expand(-1, 30) / 16
    attacker = Attacker(torch.arange(40), Examples(x, torch.zeros(40, dtype=torch.long)), Examples(x[:0], x[:0, 0]))
    goal = AttackGoal(x[:1], torch.zeros(1, dtype=torch.long), 1)
    assert nearest_records([goal], attacker, 40)[0].tolist() == list(range(40))


def test_moves_targets_in_both_directions_more_than_random_requests() -> None:
    of = bed(1)
    for direction, band in ((1, (0.75, 0.95)), (-1, (0.45, 0.65))):
        goals = of.goals(of.in_band(*band, 8), direction)
        change = confidence_change(of, goals, unlearned(of, crafted(Nearest(budget=15), of, goals)))[0]
        random = confidence_change(of, goals, unlearned(of, crafted(Random(budget=15), of, goals)))[0]
        assert -direction * change.mean() > 0.03
        assert -direction * (change - random).mean() > 0.03


def test_pixels_need_no_access_and_features_the_model_only() -> None:
    of = bed(0)
    goals = of.goals(of.targets(2))
    assert (Nearest().access, Nearest(space="features").access) == ("black_box", "white_box")
    service, meter = checks.closed(of, FineTune(), 1)
    Nearest(budget=3).craft([service] * 2, goals, of.attacker(), generator(0, "unused"))
    assert (meter.queries, meter.predictions) == (0, 0)
    with pytest.raises(UserError, match="needs an opened service"):
        Nearest(budget=3, space="features").craft([service], goals, of.attacker(), generator(0, "unused"))
    opened = checks.opened(of, FineTune())  # which has no gradient
    found = Nearest(budget=3, space="features").craft([opened], goals, of.attacker(), generator(0, "unused"))
    assert opened.meter.operator_calls == 0
    pixels = crafted(Nearest(budget=3), of, goals)  # features of a linear model are its inputs
    assert [each.request for each in found] == [each.request for each in pixels]


def test_features_of_a_committee_are_those_of_all_its_models() -> None:
    of = bed(0)
    committee = Sisa(shards=2, slices=1).learn(of.task, 0)
    torch.testing.assert_close(features(committee, of.test.x), of.test.x.repeat(1, 2))  # of two linear models
    services = [checks.opened(of), replace(checks.opened(of), victims=(committee,))]
    attack, goals = Nearest(budget=4, space="features"), of.goals(of.targets(2))
    one, other = (attack.craft([each], goals, of.attacker(), generator(0, "unused")) for each in services)
    assert [each.request for each in one] == [each.request for each in other]


def test_a_budget_beyond_the_pool_is_refused() -> None:
    of = bed(0)
    with pytest.raises(UserError, match="pool of 2 records"):
        crafted(Nearest(budget=3), of, of.goals(of.targets(1)), pool=Tensor([0, 1]).long())
