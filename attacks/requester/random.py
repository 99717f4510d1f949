"""Control: delete records drawn at random from the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from attacks.crafting.attack import Access, Attacker, AttackGoal, AttackResult, check_budget
from unlearning.procedure import Request


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Random:
    """`budget` records of the pool, uniformly without replacement, another draw for every aim."""

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "random"
    access: ClassVar[Literal["black_box"]] = "black_box"
    queries: ClassVar[int] = 1
    budget: Annotated[int, Field(ge=1)] = 20
    owned: Annotated[float, Field(gt=0, le=1)] = 1.0
    pool: Annotated[int, Field(ge=1)] | None = None

    def craft(
        self, entrances: Sequence[Access], aims: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One random request for every aim."""
        check_budget(self.budget, len(attacker.pool))
        draws = [torch.randperm(len(attacker.pool), generator=rng)[: self.budget] for _ in aims]
        return [
            AttackResult(Request(tuple(attacker.pool[draw.to(attacker.pool.device)].tolist())), float("nan"))
            for draw in draws
        ]
