"""What an attack answers, checked: otherwise reserved records, or more than the budget, would be deleted silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import index

from torch import Tensor

from attacks.crafting.access import Access
from attacks.crafting.attack import Attack, Attacker, AttackGoal, AttackResult
from data.errors import UserError, called
from unlearning.procedure import Request
from unlearning.service import OpenService


def check_budget(budget: int, pool: int) -> None:
    """Raise UserError when more deletions are allowed than the attacker has records to name."""
    if budget > pool:
        raise UserError(
            f"attack.budget={budget} is larger than the pool of {pool} records that the attacker may ask "
            "to delete; lower attack.budget, or raise attack.owned or attack.pool."
        )


def lent(accesses: Sequence[Access], goals: Sequence[AttackGoal], attacker: Attacker) -> dict[str, Tensor]:
    """By name, the tensors that an attack is lent and may not write into: its controls are about the same ones."""
    tensors = {"attacker.owned.x": attacker.owned.x, "attacker.owned.y": attacker.owned.y}
    tensors |= {"attacker.pool": attacker.pool}
    tensors |= {"attacker.reference.x": attacker.reference.x, "attacker.reference.y": attacker.reference.y}
    for i, goal in enumerate(goals):
        tensors |= {f"goals[{i}].x": goal.x, f"goals[{i}].labels": goal.labels}
    for service in accesses:
        if isinstance(service, OpenService):
            records, moving = service.task.records, (victim.moving for victim in service.victims)
            tensors |= {"task.records.x": records.x, "task.records.y": records.y}
            tensors |= {f"the victim's {name}": value for each in moving for name, value in each.items()}
    return tensors


def checked_results(attack: Attack, verb: str, answer: object, goals: int, pool: Tensor) -> list[AttackResult]:
    """What the `verb` of an attack gave for `goals` goals: each at most `budget` distinct records of the `pool` (c,).

    Raises UserError that says what is wrong with it.
    """
    name = called(attack)
    if not isinstance(answer, Sequence) or len(answer) != goals:
        gave = f"{len(answer)} of them" if isinstance(answer, Sequence) else type(answer).__name__
        raise UserError(
            f"attack={name}: {verb}() must give one AttackResult for each of {goals} goals, and gave {gave}."
        )
    positions = set(pool.tolist())
    return [_checked(f"attack={name}: {verb}()", attack.budget, result, positions) for result in answer]


def _checked(who: str, budget: int, result: object, pool: set[int]) -> AttackResult:
    if not isinstance(result, AttackResult) or not isinstance(result.request, Request):
        raise UserError(
            f"{who} gave a {type(result).__name__} for a goal; write "
            "AttackResult(Request(tuple(positions)), objective)."
        )
    try:
        indices = tuple(map(index, result.request.indices))
    except TypeError as error:
        raise UserError(f"{who} must name records by whole numbers ({error}).") from error
    if wrong := _wrong(indices, budget, pool):
        raise UserError(f"{who} asks to delete {wrong}.")
    try:
        numbers = float(result.objective), tuple(map(float, result.curve))
    except (TypeError, ValueError) as error:
        raise UserError(f"{who} must give numbers as objective and curve of an AttackResult ({error}).") from error
    if result.stages and sum(result.stages) != len(indices):
        raise UserError(f"{who} asks for {len(indices)} records in stages of {list(result.stages)}, which are others.")
    return AttackResult(replace(result.request, indices=indices), *numbers, result.tried, result.stages)


def _wrong(indices: tuple[int, ...], budget: int, pool: set[int]) -> str | None:
    if len(indices) > budget:
        return f"{len(indices)} records, and attack.budget is {budget}"
    if len(set(indices)) < len(indices):
        return "a record twice"
    strange = next((i for i in indices if i not in pool), None)
    if strange is None:
        return None
    return f"record {strange}, which is not in attacker.pool (rows of attacker.owned are not positions)"
