"""The role of an adaptive attacker: `Adaptive`, the base class of strategies, and `Crafting`, what one works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Protocol

import torch
from pydantic import ConfigDict, InstanceOf
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.adaptive.knowledge import Knowledge
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.norm_cap import below_norm_quantile
from data.errors import UserError
from unlearning.service import OpenService

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


class Search(Protocol):
    """The attack's own search."""

    def __call__(
        self, attacker: Attacker, budget: int | None = None, which: Sequence[int] | None = None
    ) -> list[AttackResult]:
        """Requests of at most `budget` records (the attack's own where None) for the goals `which` (all)."""
        ...


@plain_dataclass(frozen=True, eq=False)
class Crafting:
    """What a strategy crafts with: the attack's search, its goals, budget and norm cap, and the opened provider.

    `service` is None for a black-box attack.
    """

    search: Search
    goals: Sequence[AttackGoal]
    budget: int
    cap: float | None
    service: OpenService | None
    rng: torch.Generator

    @property
    def opened(self) -> OpenService:
        """The provider of a white-box attack."""
        assert self.service is not None  # a strategy that opens it is refused to a black-box attack
        return self.service


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Adaptive:
    """An attacker's strategy against a filter: a frozen dataclass whose fields are its options.

    A strategy overrides what it does otherwise: which records it may name (`narrow`), how it crafts (`craft`), how many
    streams a request is spread over (`parts`), what it puts into the provider's calibration (`poison`), and which
    targets it chooses (`far`). Random controls follow it in all but `craft`: they are drawn from what it may name, and
    go through the same streams and calibration.
    `opens`: looks into the model, and so needs white-box access. `needs_filter`: is of no use where everything is
    accepted. `rehearses`: plays trials against the filter, so that what it crafts depends on the defense.
    """

    name: ClassVar[str]
    opens: ClassVar[bool] = False
    needs_filter: ClassVar[bool] = False
    rehearses: ClassVar[bool] = False
    sends_copies: ClassVar[bool] = False

    @property
    def parts(self) -> int:
        """Over how many streams a request is spread."""
        return 1

    @property
    def far(self) -> float | None:
        """Which share of the test examples in a band, farthest from trusted examples, targets are drawn from."""
        return None

    def narrow(self, service: OpenService, attacker: Attacker, budget: int, cap: float | None) -> Attacker:
        """The attacker with the records that it may name; `cap` is the attack's own `norm_cap`."""
        return attacker if cap is None else below_norm_quantile(service, attacker, cap, budget)

    def craft(self, crafting: Crafting, attacker: Attacker) -> list[AttackResult]:
        """One request for every goal, in their order, from what `narrow` left."""
        return crafting.search(attacker)

    def poison(self, service: OpenService, attacker: Attacker) -> Tensor:
        """Positions (m,) of the attacker's records that stand in every calibration batch; `attacker` as at first."""
        return torch.empty(0, dtype=torch.long)

    def set_aside(self, size: int) -> int:
        """How many of its records stand in every calibration batch of `size`, and in no stream."""
        return 0

    def applicable(self, crafting: Crafting, attacker: Attacker) -> bool:
        """Whether `auto` may try it: the attacker has what it takes."""
        return True

    def played(self, results: Sequence[AttackResult]) -> Adaptive:
        """What was played where it crafted these results: itself, or the strategy that it chose."""
        return self


Strategy = InstanceOf[Adaptive]


def knowledge_of(attacker: Attacker, strategy: str) -> Knowledge:
    """What the attacker knows of the filter; raises UserError where it knows of none."""
    if attacker.knows is None:
        raise UserError(
            f"attack/adaptive={strategy} plays against a filter that the attacker knows, and there is none; choose a "
            "filter, as in defense=influence, or attack/adaptive=none."
        )
    return attacker.knows
