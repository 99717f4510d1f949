"""The nouns and the role of a requester attack: `AttackGoal`, `Attacker`, `AttackResult` and `Attack`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Literal, Protocol

import torch
from torch import Tensor

from data.errors import UserError, called
from data.examples import Examples
from data.untouched import untouched
from unlearning.procedure import Request
from unlearning.service import OpenService, Service

AccessMode = Literal[
    "auto", "white_box", "black_box"
]  # auto: white-box where a procedure has a gradient, else black-box
Access = OpenService | Service  # what an attack is given, by its access


@dataclass(frozen=True, eq=False)
class AttackGoal:
    """Targets that one request is meant to move, all together.

    `x` (T, *shape); `labels` (T,) as predicted by the victim, which an uncertainty attack keeps; `direction` +1 raises
    uncertainty (under-confidence), -1 lowers it (over-confidence).
    """

    x: Tensor
    labels: Tensor
    direction: int


@dataclass(frozen=True, eq=False)
class Attacker:
    """What the attacker has: the training records it may ask to delete, and reference examples of its own.

    `pool` (c,) are positions in the training set, `owned` the attacker's copies of them, row by row, and `reference`
    examples that the provider does not hold.
    """

    pool: Tensor
    owned: Examples
    reference: Examples


@dataclass(frozen=True)
class AttackResult:
    """A request ready to be submitted (possibly empty), the attack's own estimate of its objective, and its search log.

    `curve` is the best objective after each evaluation of the procedure.
    """

    request: Request
    objective: float
    curve: tuple[float, ...] = field(default=(), repr=False)


class Attack(Protocol):
    """A requester attack: a frozen, validated configuration with one verb.

    What it may carry besides: a `name` for messages; a `criterion` (`attacks.crafting.criterion.Criterion`), by
    which every table and figure judges it, where its goal is another than moving confidence while the label stays;
    `needs_gradient = False` where it opens the model but does not differentiate the procedure; as a black box
    `queries`, how many requests it may try for each aim (1), its `feedback` (`score`); and the `game` it plays.
    """

    @property
    def access(self) -> AccessMode: ...
    @property
    def budget(self) -> int: ...
    @property
    def owned(self) -> float: ...
    @property
    def pool(self) -> int | None: ...

    def craft(
        self, entrances: Sequence[Access], aims: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One request for every aim.

        A white-box attack gets one `OpenService` (in `entrances[0]`) for all aims; a black-box attack gets one
        `Service` with its own query budget for each aim.
        """
        ...


def crafted(
    attack: Attack, entrances: Sequence[Access], aims: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
) -> list[AttackResult]:
    """What an attack asks for, checked: one request for every aim, of at most `budget` distinct records of the pool.

    Raises UserError that says what is wrong with its answer.
    """
    name = called(attack)
    lent = {"attacker.owned.x": attacker.owned.x, "attacker.owned.y": attacker.owned.y, "attacker.pool": attacker.pool}
    lent |= {"attacker.reference.x": attacker.reference.x, "attacker.reference.y": attacker.reference.y}
    for i, aim in enumerate(aims):
        lent |= {f"aims[{i}].x": aim.x, f"aims[{i}].labels": aim.labels}
    for service in entrances:
        if isinstance(service, OpenService):
            lent |= {"task.records.x": service.task.records.x, "task.records.y": service.task.records.y}
            lent |= {f"the victim's {key}": value for victim in service.victims for key, value in victim.moving.items()}
    with untouched(f"attack={name}", lent):
        answer: object = attack.craft(entrances, aims, attacker, rng)
    if not isinstance(answer, Sequence) or len(answer) != len(aims):
        gave = f"{len(answer)} of them" if isinstance(answer, Sequence) else type(answer).__name__
        raise UserError(
            f"attack={name}: craft() must give one AttackResult for each of {len(aims)} aims, and gave {gave}."
        )
    pool = set(attacker.pool.tolist())
    return [_allowed(name, attack.budget, each, pool) for each in answer]


def _allowed(name: str, budget: int, answer: object, pool: set[int]) -> AttackResult:
    wrong = None
    if not isinstance(answer, AttackResult) or not isinstance(answer.request, Request):
        raise UserError(
            f"attack={name}: craft() gave a {type(answer).__name__} for an aim; write "
            "AttackResult(Request(tuple(positions)), objective)."
        )
    try:
        indices = tuple(map(index, answer.request.indices))
    except TypeError as error:
        raise UserError(f"attack={name}: a request must name records by whole numbers ({error}).") from error
    if len(indices) > budget:
        wrong = f"{len(indices)} records, and attack.budget is {budget}"
    elif len(set(indices)) < len(indices):
        wrong = "a record twice"
    elif strange := [i for i in indices if i not in pool]:
        wrong = f"record {strange[0]}, which is not in attacker.pool (rows of attacker.owned are not positions)"
    if wrong:
        raise UserError(f"attack={name}: craft() asks to delete {wrong}.")
    try:
        numbers = float(answer.objective), tuple(map(float, answer.curve))
    except (TypeError, ValueError) as error:
        raise UserError(f"attack={name}: objective and curve of a AttackResult are numbers ({error}).") from error
    return AttackResult(replace(answer.request, indices=indices), *numbers)


def resolved_access(access: AccessMode, entrances: Sequence[Access]) -> AccessMode:
    """The access that an attack has: what it claims, and for `auto` what it was given."""
    return access if access != "auto" else "white_box" if isinstance(entrances[0], OpenService) else "black_box"


def open_service(entrances: Sequence[Access], attack: str) -> OpenService:
    """The opened service of a white-box attack, whatever its procedure; a closed one is refused."""
    service = entrances[0]
    if not isinstance(service, OpenService):
        raise UserError(f"attack={attack} with attack.access=white_box needs an opened service, not a black box.")
    return service


def opened(entrances: Sequence[Access], attack: str) -> OpenService:
    """The same for an attack that differentiates the procedure; raises UserError for one without a gradient."""
    service = open_service(entrances, attack)
    if not service.procedure.differentiable:
        name = type(service.procedure).__name__
        raise UserError(
            f"A white-box {attack} attack needs the gradient of the unlearning procedure in the request; {name} has "
            "none; use attack.access=black_box, or a procedure that has one, such as retrain or second_order."
        )
    return service


def closed(entrance: Access) -> Service:
    """The service of a black-box attack; an opened one is refused, since it gives more than the threat model allows."""
    if isinstance(entrance, OpenService):
        raise UserError(
            "A black-box attack takes a Service, not an opened one; serve() closes a provider into a Service."
        )
    return entrance


def check_budget(budget: int, pool: int) -> None:
    """Raise UserError when more deletions are allowed than the attacker has records to name."""
    if budget > pool:
        raise UserError(
            f"attack.budget={budget} is larger than the pool of {pool} records that the attacker may ask "
            "to delete; lower attack.budget, or raise attack.owned or attack.pool."
        )


def requests_from(masks: Tensor, attacker: Attacker) -> list[Request]:
    """Rows of a boolean selection (m, c) over the pool as requests."""
    return [Request(tuple(attacker.pool[row].tolist())) for row in masks.cpu()]
