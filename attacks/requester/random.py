"""Control: delete records drawn at random from the pool."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult, random_request
from attacks.crafting.requester import OPTIONS, Requester
from unlearning.service import Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Random(Requester):
    """`budget` records of the pool, uniformly without replacement, another draw for every goal."""

    name: ClassVar[str] = "random"

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """One random request; the service is not asked."""
        return AttackResult(random_request(attacker, self.budget, rng), float("nan"))
