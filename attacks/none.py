"""Control: no attack. Every request is empty; with a defense, the stream is benign only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.requester import OPTIONS, Requester
from attacks.provider.honest import forget_honestly
from attacks.provider.provider import Demand
from attacks.requester.undeleted import Moments, Release, Staircase, ridge_system, solved, staircase
from models.victim import Victim
from unlearning.procedure import Request
from unlearning.service import Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class NoAttack(Requester):
    """Asks for nothing, and as a provider does what is asked; fits every game.

    `budget` sets the size of the benign stream and of the random control in the request game.
    """

    game: ClassVar[str] = "any"
    honest: ClassVar[bool] = True
    name: ClassVar[str] = "none"

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """An empty request."""
        return AttackResult(Request(()), float("nan"))

    def pretend(self, demand: Demand) -> Victim:
        """An honest provider: what the unlearning procedure gives, with its proof where one is asked for."""
        return forget_honestly(demand)

    def numbers(self, low: float, high: float) -> Tensor:
        """No numbers of its own (0,)."""
        return torch.zeros(0, dtype=torch.float64)

    def values(self, releases: Sequence[Release]) -> Staircase:
        """What is published without its doing."""
        return staircase(releases, 0, 0)

    def records(self, features: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """No records of its own (0, features)."""
        return torch.zeros(0, features, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)

    def moments(self, x: Tensor, y: Tensor, releases: Sequence[Release]) -> Moments:
        """What is published without its doing."""
        return solved(*ridge_system(x, y, releases))
