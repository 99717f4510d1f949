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
    """The request is cut into `parts`, and what is accepted of all of them is deleted together.

    Part j has every parts-th record from the j-th on, so that all parts are alike. Each is in a stream of the full
    size, filled up with benign records that are in no other of them; the filter reviews every stream on its own, with
    the model as it was. A test that adds up over streams would see through it; none of the filters here does.
    Requests bring no copies. Our strategy.
    """

    name: ClassVar[str] = "splitting"
    needs_filter: ClassVar[bool] = True
    parts: Annotated[int, Field(ge=2), at_most(1000, "each is a stream of its own")] = 3  # type: ignore[assignment]

    def applicable(self, crafting: Crafting, attacker: Attacker) -> bool:
        """Where the pool fills the trial streams."""
        return len(attacker.pool) >= self.parts * knowledge_of(attacker, self.name).size + crafting.budget
