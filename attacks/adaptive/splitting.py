"""Splitting: the request comes from several accounts, each in a stream of its own with fewer harmful records."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from attacks.adaptive.strategy import STRICT, Adaptive, Crafting, knowledge_of
from attacks.crafting.attack import Attacker
from data.bounds import at_most


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Splitting(Adaptive):
    """The request is cut into `parts`, which come one after the other.

    Part j has every parts-th record from the j-th on, so that all parts are alike. Each is in a stream of the full
    size, filled up with benign records that are in no other of them; what the filter accepts of one is unlearned before
    it reviews the next. A test that adds up over streams may see through it (`defenses.filters.cusum`). Requests bring
    no copies. Our strategy.
    """

    name: ClassVar[str] = "splitting"
    needs_filter: ClassVar[bool] = True
    parts: Annotated[int, Field(ge=2), at_most(1000, "each is a stream of its own")] = 3  # type: ignore[assignment]

    def applicable(self, crafting: Crafting, attacker: Attacker) -> bool:
        """Where the pool fills the trial streams."""
        return len(attacker.pool) >= self.parts * knowledge_of(attacker, self.name).size + crafting.budget
