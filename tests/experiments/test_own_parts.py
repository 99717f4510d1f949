"""What is wrong with a user's own attack, filter or procedure is a sentence: what it says, and what it answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.requester import crafted
from attacks.requester.random import Random
from data.errors import UserError
from data.examples import Examples
from defenses.defense import calibrated
from experiments.cli.roles import component, known_games
from experiments.play.setup import check_pairing, resolved
from games.request.checks import check_attack
from games.request.detection import Review
from models.victim import ModelStack, Victim
from tests.attacks.checks import bed
from unlearning.procedure import Procedure, Request, learned, unlearned
from unlearning.retrain import Retrain

EXAMPLES = Examples(torch.zeros(6, 2), torch.zeros(6, dtype=torch.long))
ATTACKER = Attacker(torch.tensor([10, 11, 12, 13, 14, 15]), EXAMPLES, EXAMPLES)
REQUEST = known_games()["request"]
AIMS = [AttackGoal(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), 1)] * 2


class Own:
    access, budget, owned, pool = "black_box", 3, 1.0, None

    def craft(self, accesses, goals, attacker, rng): ...


class Keeps:
    def review(self, context, requests): ...


class Forgets(Procedure):
    def learn(self, task, seed): ...

    def forget(self, task, victim, forget_weights, seed, submitted=None): ...


MEMBERS = {name: value for name, value in vars(Procedure).items() if name[0] != "_"}
WITHOUT_BASE = type("WithoutBase", (), MEMBERS | {"forget": Forgets.forget})


def component_of(kind: type, monkeypatch: pytest.MonkeyPatch, where: str, **members: Any) -> Any:
    """A class like `kind` with other members, built as the part `where` of a configuration."""
    module = ModuleType("parts_of_mine")
    module.Mine = type("Mine", (kind,), members)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "parts_of_mine", module)
    return component({"_target_": "parts_of_mine.Mine"}, where, REQUEST)


def test_name_and_game_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {"_target_": "parts_of_mine.Mine"}
    for where, kind in (("attack", Own), ("defense", Keeps), ("unlearning", Forgets)):
        component_of(kind, monkeypatch, where)
        component_of(WITHOUT_BASE, monkeypatch, "unlearning")
        check_pairing(REQUEST, {"attack": mine, "defense": mine})
    component_of(Keeps, monkeypatch, "defense", game="x")
    with pytest.raises(UserError, match="defense=parts_of_mine plays the x game, and this is the request game; choose"):
        check_pairing(REQUEST, {"attack": {"_target_": "attacks.requester.random.Random"}, "defense": mine})


WRONG: dict[str, tuple[type, str, dict[str, Any], str]] = {
    "access": (Own, "attack", {"access": "whitebox"}, "attack.access must be auto, white_box, black_box or transfer"),
    "budget": (Own, "attack", {"budget": 0}, "attack.budget must be a whole number of at least 1, got 0"),
    "share of budget": (Own, "attack", {"budget": 0.5}, "attack.budget must be a whole number"),
    "pool": (Own, "attack", {"pool": -1}, "attack.pool must be a whole number"),
    "queries": (Own, "attack", {"queries": "many"}, "attack.queries must be a whole number"),
    "owned": (Own, "attack", {"owned": 7}, "attack.owned must be a share"),
    "no budget": (object, "attack", {"craft": Own.craft}, "has no access and no budget and no owned.*docs/tutorial.md"),
    "craft": (Own, "attack", {"craft": lambda self, aims: []}, "craft is called with accesses, goals, attacker, rng"),
    "search": (
        Random,
        "attack",
        {"search_white_box": lambda self: []},
        "search_white_box is called with service",
    ),
    "review": (Keeps, "defense", {"review": lambda self, x: []}, "review is called with context, requests, which"),
    "forget": (
        Forgets,
        "unlearning",
        {"forget": lambda self, task: 0},
        "forget is called with task, victim, forget_weights",
    ),
    "no forget": (Procedure, "unlearning", {}, "is no unlearning procedure, since it has no forget;"),
    "request_vjp": (Forgets, "unlearning", {"differentiable": True}, "is differentiable and has no request_vjp"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_component_says_of_itself_is_checked(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, where, members, said = WRONG[case]
    with pytest.raises(UserError, match=said):
        check_attack(component_of(kind, monkeypatch, where, **members))


def test_automatic_access_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("parts_of_mine")
    module.Mine = type("Mine", (Own,), {"access": "auto"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "parts_of_mine", module)
    with pytest.raises(UserError, match="make it an option"):
        resolved(
            {
                "game": {"_target_": "games.request.game.RequestGame"},
                "attack": {"_target_": "parts_of_mine.Mine"},
                "defense": {"_target_": "defenses.none.NoDefense"},
                "unlearning": {"_target_": "unlearning.retrain.Retrain"},
            }
        )


def asked(*indices: Any) -> AttackResult:
    return AttackResult(Request(indices), 0.0)


ANSWERS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "one AttackResult for each of 2 goals, and gave NoneType"),
    "fewer": ([asked(10)], "for each of 2 goals, and gave 1 of them"),
    "positions": ([torch.tensor([10])] * 2, "gave a Tensor for a goal; write AttackResult"),
    "no number": ([asked("a")] * 2, "by whole numbers"),
    "twice": ([asked(10, 10)] * 2, "a record twice"),
    "too many": ([asked(10, 11, 12, 13)] * 2, "4 records, and attack.budget is 3"),
    "rows of owned": ([asked(10), asked(0)], r"record 0, which is not in attacker.pool"),
}


def answering(answer: Any) -> Callable[..., Sequence[AttackResult]]:
    return lambda *_: answer


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_of_an_attack_is_checked(case: str) -> None:
    """Otherwise reserved records, or more than the budget, would be deleted without a word."""
    attack, (answer, said) = Own(), ANSWERS[case]
    attack.craft = answering(answer)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=said):
        crafted(attack, [], AIMS, ATTACKER, torch.Generator())  # type: ignore[arg-type]


def test_numbers_of_torch_are_numbers() -> None:
    attack = Own()
    attack.craft = answering([asked(*ATTACKER.pool[:2]), asked()])  # type: ignore[method-assign]
    found = crafted(attack, [], AIMS, ATTACKER, torch.Generator())  # type: ignore[arg-type]
    assert [each.request.indices for each in found] == [(10, 11), ()]
    assert {type(i) for i in found[0].request.indices} == {int}


def test_an_answer_of_a_procedure_is_checked() -> None:
    task, victim = bed(0).task, bed(0).victim
    deleted = torch.zeros(2, len(task.records), dtype=torch.float64)
    wrong: dict[str, Any] = {"a Victim": victim, "a list": [victim, victim], "1 models": victim.copies(1)}
    for gave, answer in wrong.items():
        procedure = Forgets()
        procedure.forget = answering(answer)  # type: ignore[method-assign]
        with pytest.raises(UserError, match=f"each of the 2 rows of `forget_weights`, and gave {gave}"):
            unlearned(procedure, task, victim, deleted, 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"must give a Victim, as .* and gave a NoneType"):
        learned(Forgets(), task, 0)  # type: ignore[arg-type]
    assert isinstance(learned(Retrain(), task, 0), Victim)
    assert isinstance(unlearned(Retrain(), task, victim, deleted, 0), ModelStack)


def test_a_filter_that_is_called_none_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Setup:
        defense = component_of(Keeps, monkeypatch, "defense", name="none")

    review = Review(Setup(), None, [], {})  # type: ignore[arg-type]
    assert review._called() == "Mine"
    Setup.defense.accepts_everything = True
    assert review._called() == "none"


@pytest.mark.parametrize("what", ["goals[0].x", "attacker.owned.x", "attacker.pool"])
def test_an_attack_that_writes_into_what_it_is_lent_is_named(what: str) -> None:
    """Its controls would otherwise be about something else."""
    owned = Examples(torch.ones(6, 2), torch.zeros(6, dtype=torch.long))
    attacker = Attacker(torch.tensor([10, 11, 12, 13, 14, 15]), owned, EXAMPLES)
    aims = [AttackGoal(torch.ones(1, 2), torch.zeros(1, dtype=torch.long), 1)]
    tensors = {"goals[0].x": aims[0].x, "attacker.owned.x": owned.x, "attacker.pool": attacker.pool}

    class Writes(Random):
        def craft(self, accesses: Any, goals: Any, attacker: Any, rng: Any) -> list[AttackResult]:
            tensors[what].mul_(2)
            return [AttackResult(Request((10,)), 0.0) for _ in goals]

    with pytest.raises(UserError) as raised:
        crafted(Writes(budget=3), [], aims, attacker, torch.Generator())
    assert f"writes into {what}" in str(raised.value)


@pytest.mark.parametrize("given", [float("nan"), "high", None, torch.tensor([1.0, 2.0])])
def test_a_threshold_that_is_no_number_is_named(given: Any) -> None:
    class Odd:
        name = "odd"

        def threshold(self, context: Any) -> Any:
            return given

    with pytest.raises(UserError, match=r"threshold\(\) must give a number"):
        calibrated(Odd(), None)  # type: ignore[arg-type]
