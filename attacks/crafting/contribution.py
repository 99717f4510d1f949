"""What an attacker puts into the training set before anybody trains, so that a later deletion does harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from data.errors import UserError, called
from data.examples import Data, Examples
from data.untouched import untouched
from unlearning.procedure import Request, Task

ROWS = 4096  # records that are compared at once


@dataclass(frozen=True, eq=False)
class Contribution:
    """The training `records` with the rows that the attacker owns as it hands them in, and what it is for.

    `requested` are by goal the positions that it will ask to delete. `shown` (T, *shape) are by goal, where given, the
    inputs that its targets are judged at in place of the test examples, such as these with a trigger.
    """

    records: Examples
    requested: Sequence[Tensor]
    shown: Sequence[Tensor] | None = None


@runtime_checkable
class Contributes(Protocol):
    """An attack that prepares the training set; its goals then say what it contributed for each of them.

    `task` has the records, the architecture and the recipe, and no model of the provider's: what is needed is trained.
    """

    def contribute(
        self, task: Task, data: Data, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> Contribution:
        """The training set with the rows of `attacker.pool` as the attacker wants them."""
        ...


def contributed(
    attack: Contributes, task: Task, data: Data, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
) -> Contribution:
    """What an attack contributes, checked: only rows of its pool differ, all is finite, and requests are of its pool.

    Raises UserError that says what is wrong with it.
    """
    name, before = f"attack={called(attack)}: contribute()", task.records
    with untouched(f"attack={called(attack)}", {"task.records.x": before.x, "task.records.y": before.y}):
        given: object = attack.contribute(task, data, goals, attacker, rng)
    if not isinstance(given, Contribution):
        raise UserError(f"{name} must give a Contribution, and gave a {type(given).__name__}.")
    records, own = given.records, attacker.may_name(len(before))
    if records.x.shape != before.x.shape or records.y.shape != before.y.shape:
        raise UserError(f"{name} must give as many records as there were.")
    differs = differing(records, before)
    if bool((differs & ~own).any()):
        raise UserError(
            f"{name} changes record {int((differs & ~own).nonzero()[0, 0])}, which is not in attacker.pool."
        )
    if not bool(torch.isfinite(records.x[differs]).all()):
        raise UserError(f"{name} hands in a record that is not finite.")
    if bool(((records.y < 0) | (records.y >= len(data.classes))).any()):
        raise UserError(f"{name} hands in a label outside 0 to {len(data.classes) - 1}.")
    if len(given.requested) != len(goals) or (given.shown is not None and len(given.shown) != len(goals)):
        raise UserError(f"{name} must say for each of {len(goals)} goals what will be asked for, and what is judged.")
    for requested in given.requested:
        if not bool(own[requested.to(own.device)].all()):
            raise UserError(f"{name} will ask for a record that is not in attacker.pool.")
    return given


def differing(one: Examples, other: Examples) -> Tensor:
    """Which of as many examples (n,) are not the same, bit by bit; compared some at a time."""
    pairs = zip(one.x.split(ROWS), other.x.split(ROWS), strict=True)
    return torch.cat([(x != y).flatten(1).any(dim=1) for x, y in pairs]) | (one.y != other.y)


def asked_back(goal: AttackGoal) -> AttackResult:
    """The request for what was contributed for a goal; nothing is asked to find it."""
    assert goal.contributed is not None  # a game shows goals what was contributed
    return AttackResult(Request(tuple(goal.contributed.tolist())), float("nan"))


def with_contribution(goals: Sequence[AttackGoal], given: Contribution) -> list[AttackGoal]:
    """The goals with what was contributed for each, and the inputs that their targets are judged at."""
    shown = [None] * len(goals) if given.shown is None else given.shown
    return [
        replace(goal, contributed=requested, x=goal.x if x is None else x)
        for goal, requested, x in zip(goals, given.requested, shown, strict=True)
    ]
