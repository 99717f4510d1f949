"""The chores of `craft`, once for every attack: budget, access, gradient, norm cap, goals, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from attacks.crafting.access import Access, AccessMode
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.black_box import ScoreSearch
from attacks.crafting.requester import OPTIONS, NormCap, Requester, crafted
from attacks.crafting.zeroth_order import Estimator
from attacks.none import NoAttack
from attacks.requester.misclassification import Misclassification
from attacks.requester.nearest import Nearest
from attacks.requester.one_shot_influence import OneShotInfluence
from attacks.requester.random import Random
from attacks.requester.uncertainty import Uncertainty
from data.errors import UserError
from data.randomness import generator
from models.gradients import gradient_norms
from tests.attacks.checks import bed, closed, opened
from unlearning.fine_tune import FineTune
from unlearning.first_order import FirstOrder
from unlearning.influence_fisher import InfluenceFisher
from unlearning.procedure import Request
from unlearning.service import OpenService, Service

WHITE = [
    Uncertainty(budget=3, access="white_box"),
    Misclassification(budget=3, access="white_box"),
    OneShotInfluence(budget=3),
]
EVERY = [*WHITE, Nearest(budget=3), Nearest(budget=3, space="features"), Random(budget=3), NoAttack(budget=3)]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Both(Requester):
    """Names the first records of its pool, however it is let in, and says in the objective how it was asked."""

    name: ClassVar[str] = "both"
    access: AccessMode = "auto"
    norm_cap: NormCap = None
    named: int = 2

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        assert isinstance(service, OpenService)
        return [self.first(attacker, float(len(goals))) for _ in goals]

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        assert isinstance(service, Service)
        return self.first(attacker, float(torch.rand((), generator=rng)))

    def first(self, attacker: Attacker, objective: float) -> AttackResult:
        return AttackResult(Request(tuple(attacker.pool[: self.named].tolist())), objective)


def goals(count: int = 2) -> list[AttackGoal]:
    return bed(0).goals(bed(0).targets(count))


def black(count: int = 2) -> list[Access]:
    return [closed(bed(0), FirstOrder(), 5)[0] for _ in range(count)]


def white(procedure: Any = None) -> list[Access]:
    return [opened(bed(0), procedure or FirstOrder())]


def asked(attack: Any, accesses: Sequence[Access], count: int = 2, pool: torch.Tensor | None = None) -> Any:
    return attack.craft(accesses, goals(count), bed(0).attacker(pool), generator(0, "a"))


def test_white_box_searches_take_all_goals_and_black_box_ones_a_service_each() -> None:
    together = asked(Both(), white(), 3)
    assert [result.objective for result in together] == [3.0, 3.0, 3.0]
    drawn = generator(0, "a")
    alone = asked(Both(), black(3), 3)
    assert [result.objective for result in alone] == [float(torch.rand((), generator=drawn)) for _ in range(3)]


def test_craft_is_the_last_word() -> None:
    assert Requester.craft.__final__  # type: ignore[attr-defined]
    assert all(type(attack).craft is Requester.craft for attack in EVERY)
    with pytest.raises(FrozenInstanceError):
        EVERY[0].budget = 4  # type: ignore[misc]


@pytest.mark.parametrize("attack", EVERY, ids=lambda a: a.name)
def test_a_budget_beyond_the_pool_is_refused(attack: Requester) -> None:
    accesses = white() if attack.access == "white_box" else black(1)
    with pytest.raises(UserError, match="pool of 2 records"):
        asked(attack, accesses, 1, torch.arange(2))


@pytest.mark.parametrize("procedure", [FineTune(), InfluenceFisher()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("attack", WHITE, ids=lambda a: a.name)
def test_white_box_access_needs_a_gradient(attack: Requester, procedure: Any) -> None:
    (service,) = white(procedure)
    with pytest.raises(UserError, match=rf"{type(procedure).__name__} has none; use attack.access=black_box"):
        asked(attack, [service], 1)
    assert isinstance(service, OpenService)
    assert service.meter.operator_calls == 0


@pytest.mark.parametrize("attack", WHITE, ids=lambda a: a.name)
def test_white_box_access_needs_an_opened_service(attack: Requester) -> None:
    with pytest.raises(UserError, match="needs an opened service"):
        asked(attack, black(1), 1)


def test_an_attack_that_opens_the_model_only_needs_no_gradient() -> None:
    assert len(asked(Nearest(budget=3, space="features"), white(FineTune()))) == 2


@pytest.mark.parametrize("make", [Uncertainty, Misclassification])
def test_black_box_attacks_refuse_an_opened_service(make: Any) -> None:
    with pytest.raises(UserError, match="takes a Service"):
        asked(make(budget=3, access="black_box"), white(), 1)


@pytest.mark.parametrize("make", [Uncertainty, Misclassification])
def test_automatic_access_is_what_the_attack_is_given(make: Any) -> None:
    search = ScoreSearch(estimator=Estimator(directions=2, ranked=True))
    for access in ("white_box", "black_box"):
        found = []
        for claimed in ("auto", access):
            shut, meter = closed(bed(0), FirstOrder(), 5)
            accesses = white() if access == "white_box" else [shut]
            found.append(asked(make(budget=3, access=claimed, search=search), accesses, 1))
            assert meter.queries == (5 if access == "black_box" else 0)
        assert found[0] == found[1]
    with pytest.raises(UserError, match="norm_cap needs gradients"):
        asked(make(budget=3, norm_cap=0.7), black(1), 1)
    with pytest.raises(UserError, match="FineTune has none"):
        asked(make(budget=3), white(FineTune()), 1)


def test_the_norm_cap_is_applied_before_the_search() -> None:
    of = bed(0)
    norms = gradient_norms(of.victim, of.task.records)
    for cap in (None, 0.3):
        (result,) = asked(Both(norm_cap=cap, named=20), white(), 1)
        allowed = torch.arange(300) if cap is None else (norms <= norms.double().quantile(cap)).nonzero()[:, 0]
        assert list(result.request.indices) == allowed[:20].tolist()
    with pytest.raises(UserError, match="raise the cap"):
        asked(Both(norm_cap=0.01), white(), 1)


def test_a_search_that_was_not_written_is_missed_before_anything_is_trained() -> None:
    @dataclass(frozen=True, kw_only=True, config=OPTIONS)
    class Half(Requester):
        access: AccessMode = "auto"
        search_black_box = Both.search_black_box
        first = Both.first
        named: ClassVar[int] = 1

    assert len(asked(Half(), black())) == 2
    with pytest.raises(UserError, match=r"attack=Half has attack.access=white_box and no search_white_box\(\)"):
        asked(Half(), white())
    with pytest.raises(ValidationError, match=r"no search_white_box\(\)"):
        Half(access="white_box")
    with pytest.raises(ValidationError, match=r"attack=Requester has .* no search_black_box\(\)"):
        Requester()


def test_options_are_checked() -> None:
    for wrong in ({"budget": 0}, {"owned": 0.0}, {"owned": 1.5}, {"pool": 0}, {"norm_cap": 1.0}, {"bugdet": 3}):
        with pytest.raises(ValidationError):
            Both(**wrong)  # type: ignore[arg-type]


def test_an_answer_is_checked_whoever_asks() -> None:
    """By `craft` itself, naming the search; records above the norm cap are not of the pool."""
    with pytest.raises(UserError, match=r"attack=both: search_white_box\(\) asks to delete 21 records"):
        asked(Both(named=21), white(), 1)
    with pytest.raises(UserError, match=r"attack=both: search_black_box\(\) asks to delete 21 records"):
        asked(Both(named=21), black(1), 1)

    class Ignores(Both):
        def first(self, attacker: Attacker, objective: float) -> AttackResult:
            return AttackResult(Request((int(gradient_norms(bed(0).victim, bed(0).task.records).argmax()),)), objective)

    assert len(asked(Ignores(), white())) == 2
    with pytest.raises(UserError, match=r"which is not in attacker\.pool"):
        asked(Ignores(norm_cap=0.9), white())


@pytest.mark.parametrize("access", ["white_box", "black_box"])
def test_a_search_that_writes_into_what_it_is_lent_is_named(access: str) -> None:
    class Writes(Both):
        def first(self, attacker: Attacker, objective: float) -> AttackResult:
            attacker.reference.x.mul_(1.0)
            return super().first(attacker, objective)

    with pytest.raises(UserError, match=r"attack=both writes into attacker\.reference\.x"):
        asked(Writes(), white() if access == "white_box" else black())


class Own:
    """An attack that inherits from nothing and writes `craft` itself."""

    access, budget, owned, pool = "black_box", 2, 1.0, None

    def craft(self, entrances: Any, aims: Any, attacker: Attacker, rng: torch.Generator) -> list[AttackResult]:
        return [AttackResult(Request(tuple(attacker.pool[:2].tolist())), 0.0) for _ in aims]


def test_a_game_asks_both_kinds_in_the_same_way() -> None:
    attacker = bed(0).attacker(torch.arange(7, 20))
    for attack in (Own(), Both(access="black_box", budget=2)):
        found = crafted(attack, black(), goals(), attacker, generator(0, "a"))  # type: ignore[arg-type]
        assert [result.request.indices for result in found] == [(7, 8), (7, 8)]
