"""The base class of requester attacks, whose `craft` does the chores, and how a game asks any attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, final

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from attacks.adaptive.none import NotAdaptive
from attacks.adaptive.strategy import Adaptive, Crafting
from attacks.crafting.access import (
    Access,
    AccessMode,
    opens,
    require_black_box,
    require_gradient,
    require_white_box,
    resolved_access,
)
from attacks.crafting.answer import check_budget, checked_results, lent
from attacks.crafting.attack import Attack, Attacker, AttackGoal, AttackResult
from attacks.crafting.criterion import ConfidenceMoved, Criterion
from data.errors import UserError, called
from data.untouched import untouched
from models.progress import progress
from unlearning.service import OpenService, Service

OPTIONS = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
NormCap = Annotated[float, Field(gt=0, lt=1)] | None  # only records whose gradient norm is below this quantile
SEARCHES = {
    "white_box": "search_white_box",
    "black_box": "search_black_box",
    "transfer": "search_white_box",  # of a surrogate
}


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Requester:
    """A requester attack: a frozen dataclass whose fields are its options, and which writes a search.

    `search_white_box` is given the opened provider and all goals together, `search_black_box` a service of its own for
    one goal; an attack writes the one that its `access` claims, or both. With the access `transfer` what is opened is a
    surrogate that the attacker trained (`attacks.crafting.transfer`), and the search is the white-box one. `craft` is
    what a game calls. It checks the budget, asks for that access and, unless `needs_gradient` is False, for a procedure
    that can be differentiated, leaves out what lies above the `norm_cap`, lets the strategy of an `adaptive` attacker
    search, and checks the answer.

    An attack that claims white-box access says `access = "white_box"`; where the user chooses it is an option, and
    so are `norm_cap` and `adaptive` where there are any. `name` is what messages call it, else the name of the
    class; `criterion` is what its success is.
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str]
    criterion: ClassVar[Criterion] = ConfidenceMoved()
    needs_gradient: ClassVar[bool] = True  # of the procedure, where it opens the provider
    budget: Annotated[int, Field(ge=1)] = 20
    owned: Annotated[float, Field(gt=0, le=1)] = 1.0
    pool: Annotated[int, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        self.check_access(self.access)

    @property
    def access(self) -> AccessMode:
        """The access that it claims."""
        return "black_box"

    @property
    def norm_cap(self) -> NormCap:
        """The quantile of gradient norms above which it names no record; None is no cap."""
        return None

    @property
    def adaptive(self) -> Adaptive:
        """What it does otherwise where it knows of a filter."""
        return NotAdaptive()

    def check_access(self, access: AccessMode) -> None:
        """Raise UserError where its options do not go with `access`; what is `auto` is checked when it is resolved."""
        verb = SEARCHES.get(access)
        if verb is not None and getattr(type(self), verb) is getattr(Requester, verb):
            raise UserError(f"attack={called(self)} has attack.access={access} and no {verb}(); see docs/tutorial.md.")
        if access == "black_box" and self.norm_cap is not None:
            raise UserError("attack.norm_cap needs gradients of the victim; use it with attack.access=white_box.")
        if access in ("black_box", "transfer") and self.adaptive.opens:
            raise UserError(
                f"attack/adaptive={self.adaptive.name} needs the victim and its gradients; use it with "
                "attack.access=white_box."
            )

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One result for every goal, in their order; `attacker.pool` are the records that may be named."""
        raise NotImplementedError

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """The result for one goal; goals come one after the other, and share `rng`."""
        raise NotImplementedError

    @final
    def craft(
        self, accesses: Sequence[Access], goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One request of at most `budget` deletions for every goal; raises UserError where the pairing cannot work.

        `accesses` are one `OpenService` for all goals, or one `Service` for each of them.
        """
        check_budget(self.budget, len(attacker.pool))
        access = resolved_access(self.access, accesses)
        self.check_access(access)
        service = None
        if opens(access):
            service = self._opened(accesses)
            attacker = self.adaptive.narrow(service, attacker, self.budget, self.norm_cap)

        def search(
            attacker: Attacker, budget: int | None = None, which: Sequence[int] | None = None
        ) -> list[AttackResult]:
            attack = self if budget in (None, self.budget) else replace(self, budget=budget)
            wanted = goals if which is None else [goals[i] for i in which]
            if service is not None:
                return attack.search_white_box(service, wanted, attacker, rng)
            return attack._one_by_one(
                accesses if which is None else [accesses[i] for i in which], wanted, attacker, rng
            )

        crafting = Crafting(search, goals, self.budget, self.norm_cap, service, rng)
        with untouched(f"attack={called(self)}", lent(accesses, goals, attacker)):
            answer = self.adaptive.craft(crafting, attacker)
        return checked_results(self, SEARCHES[access], answer, len(goals), attacker.pool)

    def _opened(self, accesses: Sequence[Access]) -> OpenService:
        service = require_white_box(accesses, called(self))
        if self.needs_gradient:
            require_gradient(service.procedure, called(self))
        return service

    def _one_by_one(
        self, accesses: Sequence[Access], goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        services = [require_black_box(access) for access in accesses]
        results = []
        with progress("crafting requests", len(goals)) as tick:
            for service, goal in zip(services, goals, strict=True):
                results.append(self.search_black_box(service, goal, attacker, rng))
                tick()
        return results


def crafted(
    attack: Attack, accesses: Sequence[Access], goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
) -> list[AttackResult]:
    """What a game asks of an attack, be it a `Requester` or one that writes a `craft` of its own: its answer, checked.

    Raises UserError that says what is wrong with the answer.
    """
    with untouched(f"attack={called(attack)}", lent(accesses, goals, attacker)):
        answer = attack.craft(accesses, goals, attacker, rng)
    return checked_results(attack, "craft", answer, len(goals), attacker.pool)
