"""What a defense may do beside reviewing requests: the optional roles `Prepares` and `Repairs`.

A game finds them in the defense itself, or in one of the filters of a chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from data.errors import UserError, called
from data.examples import Examples
from data.untouched import untouched
from models.victim import Victim
from unlearning.procedure import Procedure, Task

Role = TypeVar("Role")


@runtime_checkable
class Prepares(Protocol):
    """A defense that changes the records that were handed in, everybody's alike, before anybody trains."""

    def prepare(self, records: Examples) -> Examples:
        """The records that the provider trains on: as many, with their labels, in their order."""
        ...


@runtime_checkable
class Repairs(Protocol):
    """A defense that puts spare records in the place of deleted ones, and has the model learn these.

    `reserve` is how many training records it needs as spares. A game takes them out of the training set before anybody
    trains: no model knows them before they stand in for others, no request names them, and nothing is measured on them.
    """

    reserve: int

    def stand_ins(self, task: Task, victim: Victim, deleted: Tensor, spares: Examples, rng: torch.Generator) -> Tensor:
        """For the records at positions `deleted` (m,), in the order of the request, rows (m,) of `spares`, or -1.

        Every spare stands in for one record at most.
        """
        ...

    def repair(self, procedure: Procedure, repaired: Task, forgotten: Callable[[], Victim], seed: int) -> Victim:
        """The model after the repair.

        Args:
            procedure: what the provider unlearns with.
            repaired: the task with stand-ins in the place of the deleted records; those without one are `forgotten`.
            forgotten: gives the model that `procedure` makes of the deletion, where it is asked for.
            seed: what the provider draws with.
        """
        ...


def preparing(defense: Any) -> Prepares | None:
    """The part of a defense that prepares records, it itself or a filter of a chain; None where there is none.

    Raises UserError where several do.
    """
    return _one(defense, [each for each in _parts(defense) if isinstance(each, Prepares)], "prepare the records")


def repairing(defense: Any) -> Repairs | None:
    """The part of a defense that repairs models; as `preparing`."""
    return _one(defense, [each for each in _parts(defense) if isinstance(each, Repairs)], "repair the model")


def prepared(defense: Prepares, records: Examples) -> Examples:
    """The records as the defense prepares them, checked.

    Raises UserError where these are not as many finite records of that shape, with the labels that they had.
    """
    name = f"defense={called(defense)}"
    with untouched(name, {"records.x": records.x, "records.y": records.y}):
        found: object = defense.prepare(records)
    if not isinstance(found, Examples) or found.x.shape != records.x.shape or not torch.equal(found.y, records.y):
        raise UserError(f"{name}: prepare() must give as many records, in their order, with their labels and shape.")
    if not bool(torch.isfinite(found.x).all()):
        raise UserError(f"{name}: prepare() gave a record that is not finite.")
    return found


def repaired_task(
    defense: Repairs, task: Task, victim: Victim, deleted: Tensor, spares: Examples, rng: torch.Generator
) -> Task:
    """The task with the stand-ins of `defense` in the place of the records at positions `deleted` (m,), checked.

    What has no stand-in is forgotten. Raises UserError where the answer of `stand_ins` is no m different rows of the
    spares, or -1.
    """
    name = f"defense={called(defense)}"
    lent = {
        "task.records.x": task.records.x,
        "task.records.y": task.records.y,
        "spares.x": spares.x,
        "deleted": deleted,
    }
    with untouched(name, lent):
        rows: object = defense.stand_ins(task, victim, deleted, spares, rng)
    if not isinstance(rows, Tensor) or rows.shape != deleted.shape or rows.dtype != torch.long:
        raise UserError(f"{name}: stand_ins() of {len(deleted)} records gave no {len(deleted)} rows of spares, or -1.")
    used = rows >= 0
    if bool((rows < -1).any() | (rows >= len(spares)).any()) or len(rows[used].unique()) < int(used.sum()):
        raise UserError(f"{name}: stand_ins() must give different rows of the {len(spares)} spares, or -1.")
    x, y = task.records.x.clone(), task.records.y.clone()
    x[deleted[used]], y[deleted[used]] = spares.x[rows[used]], spares.y[rows[used]]
    if bool(used.all()):
        return replace(task, records=Examples(x, y))
    gone = x.new_zeros(1, len(x))
    gone[0, deleted[~used]] = 1
    return replace(task, records=Examples(x, y), forgotten=task.total(gone)[0])


def _one(defense: Any, parts: Sequence[Role], what: str) -> Role | None:
    if len(parts) > 1:
        names = " and ".join(called(each) for each in parts)
        raise UserError(f"defense={called(defense)}: {names} would both {what}, and one can; leave one of them out.")
    return parts[0] if parts else None


def _parts(defense: Any) -> Iterator[Any]:
    yield defense
    for each in getattr(defense, "filters", ()):
        yield from _parts(each)
