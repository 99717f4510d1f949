from __future__ import annotations

import pytest
import torch

from attacks.crafting.attack import check_budget, closed, opened, requests_from
from attacks.crafting.black_box import ScoreSearch
from attacks.crafting.zeroth_order import Estimator
from attacks.requester.misclassification import Misclassification
from attacks.requester.one_shot_influence import OneShotInfluence
from attacks.requester.random import Random
from attacks.requester.uncertainty import Uncertainty
from data.errors import UserError
from data.randomness import generator
from tests.attacks import checks
from tests.attacks.checks import bed
from unlearning.fine_tune import FineTune
from unlearning.first_order import FirstOrder
from unlearning.influence_fisher import InfluenceFisher

WHITE = [
    Uncertainty(budget=3, access="white_box"), Misclassification(budget=3, access="white_box"),
    OneShotInfluence(budget=3),
]  # fmt: skip


@pytest.mark.parametrize("procedure", [FineTune(), InfluenceFisher()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("attack", WHITE, ids=lambda a: a.name)
def test_white_box_access_needs_a_gradient(attack, procedure) -> None:  # type: ignore[no-untyped-def]
    of = bed(0)
    service = checks.opened(of, procedure)
    with pytest.raises(UserError, match=rf"{type(procedure).__name__} has none; use attack.access=black_box"):
        attack.craft([service], of.aims(of.targets(1)), of.attacker(), generator(0, "a"))
    assert service.meter.operator_calls == 0


@pytest.mark.parametrize("attack", WHITE, ids=lambda a: a.name)
def test_white_box_access_needs_an_opened_service(attack) -> None:  # type: ignore[no-untyped-def]
    of = bed(0)
    with pytest.raises(UserError, match="needs an opened service"):
        attack.craft([checks.closed(of, FirstOrder(), 5)[0]], of.aims(of.targets(1)), of.attacker(), generator(0, "a"))


@pytest.mark.parametrize("make", [Uncertainty, Misclassification])
def test_black_box_attacks_refuse_an_opened_service(make) -> None:  # type: ignore[no-untyped-def]
    of = bed(0)
    attack = make(budget=3, access="black_box")
    with pytest.raises(UserError, match="takes a Service"):
        attack.craft([checks.opened(of)], of.aims(of.targets(1)), of.attacker(), generator(0, "a"))


@pytest.mark.parametrize("attack", [Uncertainty, Misclassification])
def test_automatic_access_is_what_the_attack_is_given(attack) -> None:  # type: ignore[no-untyped-def]
    of = bed(0)
    aims, search = of.aims(of.targets(1)), ScoreSearch(estimator=Estimator(directions=2, ranked=True))
    for access in ("white_box", "black_box"):
        found = []
        for claimed in ("auto", access):
            shut, meter = checks.closed(of, FirstOrder(), 5)
            entrance = checks.opened(of, FirstOrder()) if access == "white_box" else shut
            one = attack(budget=3, access=claimed, search=search)
            found.append(one.craft([entrance], aims, of.attacker(), generator(0, "a")))
            assert meter.queries == (5 if access == "black_box" else 0)
        assert found[0] == found[1]
    with pytest.raises(UserError, match="norm_cap needs gradients"):
        attack(budget=3, norm_cap=0.7).craft([shut], aims, of.attacker(), generator(0, "a"))
    with pytest.raises(UserError, match="FineTune has none"):
        attack(budget=3).craft([checks.opened(of, FineTune())], aims, of.attacker(), generator(0, "a"))


def test_entrances_are_what_they_claim() -> None:
    of = bed(0)
    shut = checks.closed(of, FirstOrder(), 1)[0]
    assert closed(shut) is shut
    wide = checks.opened(of)
    assert opened([wide], "any") is wide


@pytest.mark.parametrize("attack", [*WHITE, Random(budget=3)], ids=lambda a: a.name)
def test_a_budget_beyond_the_pool_is_refused(attack) -> None:  # type: ignore[no-untyped-def]
    of = bed(0)
    with pytest.raises(UserError, match="pool of 2 records"):
        attack.craft([checks.opened(of)], of.aims(of.targets(1)), of.attacker(torch.arange(2)), generator(0, "a"))
    check_budget(2, 2)


def test_masks_over_the_pool_name_records() -> None:
    attacker = bed(0).attacker(torch.tensor([30, 10, 20]))
    found = requests_from(torch.tensor([[True, False, True], [False, True, False]]), attacker)
    assert [each.indices for each in found] == [(30, 20), (10,)]
