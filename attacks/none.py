"""Control: no attack. Every request is empty; with a defense, the stream is benign only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from attacks.crafting.attack import Access, Attacker, AttackGoal, AttackResult
from unlearning.procedure import Request


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class NoAttack:
    """Asks for nothing. `budget` sets the size of the benign stream and of the random control."""

    game: ClassVar[str] = "any"
    name: ClassVar[str] = "none"
    access: ClassVar[Literal["black_box"]] = "black_box"
    queries: ClassVar[int] = 1
    budget: Annotated[int, Field(ge=1)] = 20
    owned: Annotated[float, Field(gt=0, le=1)] = 1.0
    pool: Annotated[int, Field(ge=1)] | None = None

    def craft(
        self, entrances: Sequence[Access], aims: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """An empty request for every aim."""
        return [AttackResult(Request(()), float("nan")) for _ in aims]
