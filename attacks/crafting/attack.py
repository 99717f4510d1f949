"""The nouns and the role of a requester attack: `AttackGoal`, `Attacker`, `AttackResult` and `Attack`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from attacks.adaptive.knowledge import Knowledge
from attacks.crafting.access import Access, AccessMode
from data.examples import Examples
from unlearning.procedure import Request


@dataclass(frozen=True, eq=False)
class AttackGoal:
    """Targets that one request is meant to move, all together.

    `x` (T, *shape); `labels` (T,) as predicted by the victim, which an uncertainty attack keeps; `direction` +1 raises
    uncertainty (under-confidence), -1 lowers it (over-confidence). `contributed` are the positions in the training set
    that an attack which contributed to it said that it would ask for.
    """

    x: Tensor
    labels: Tensor
    direction: int
    contributed: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Attacker:
    """What the attacker has: the training records it may ask to delete, and reference examples of its own.

    `pool` (c,) are positions in the training set, `owned` the attacker's copies of them, row by row, and `reference`
    examples that the provider does not hold. `knows` is what an adaptive attacker knows of the filter.
    """

    pool: Tensor
    owned: Examples
    reference: Examples
    knows: Knowledge | None = None

    def may_name(self, count: int) -> Tensor:
        """Which of `count` training records are in the pool, bool (count,)."""
        mask = torch.zeros(count, dtype=torch.bool, device=self.pool.device)
        mask[self.pool] = True
        return mask


@dataclass(frozen=True)
class AttackResult:
    """A request ready to be submitted (possibly empty), the attack's own estimate of its objective, and its search log.

    `curve` is the best objective after each evaluation of the procedure. `tried` are the strategies that an adaptive
    attacker chose among, with what each attained in the attacker's own trials; the first is what it plays. `stages` are
    how many of the records, in their order, are asked for one after the other, where they are not asked for at once; an
    attack that says so has the number of stages as its `streams`.
    """

    request: Request
    objective: float
    curve: tuple[float, ...] = field(default=(), repr=False)
    tried: tuple[tuple[str, float], ...] = ()
    stages: tuple[int, ...] = ()


class Attack(Protocol):
    """A requester attack, as a game sees it: a frozen, validated configuration with one verb.

    `attacks.crafting.requester.Requester` is its base class, which does the chores; to inherit from it is not needed.
    What an attack may carry besides: a `name` for messages; a `criterion` (`attacks.crafting.criterion.Criterion`), by
    which every table and figure judges it, where its goal is another than moving confidence while the label stays;
    `needs_gradient = False` where it opens the model but does not differentiate the procedure; as a black box
    `queries`, how many requests it may try for each goal (1), its `feedback` (`score`); the `game` it plays;
    `check(data, procedure, record)`, which raises UserError before anything is trained where the attack cannot play;
    and `contribute` (`attacks.crafting.contribution.Contributes`), where it hands in records before training.
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
        self, accesses: Sequence[Access], goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One request for every goal.

        A white-box attack gets one `OpenService` (in `accesses[0]`) for all goals, and so does one with the access
        `transfer`, of its surrogate: the pool then is what the surrogate counts. A black-box attack gets one `Service`
        with its own query budget for each goal.
        """
        ...


def random_request(attacker: Attacker, count: int, rng: torch.Generator) -> Request:
    """At most `count` records of the pool, drawn uniformly without replacement."""
    drawn = torch.randperm(len(attacker.pool), generator=rng)[:count]
    return Request(tuple(attacker.pool[drawn.to(attacker.pool.device)].tolist()))


def requests_from(masks: Tensor, attacker: Attacker) -> list[Request]:
    """Rows of a boolean selection (m, c) over the pool as requests."""
    return [Request(tuple(attacker.pool[row].tolist())) for row in masks.cpu()]
