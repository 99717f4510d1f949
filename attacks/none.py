"""Control: no attack. Every request is empty; with a defense, the stream is benign only."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.requester import OPTIONS, Requester
from unlearning.procedure import Request
from unlearning.service import Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class NoAttack(Requester):
    """Asks for nothing; fits every game. `budget` sets the size of the benign stream and of the random control."""

    game: ClassVar[str] = "any"
    name: ClassVar[str] = "none"

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """An empty request."""
        return AttackResult(Request(()), float("nan"))
