"""No strategy: the attack is played as if there were no filter."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from attacks.adaptive.strategy import STRICT, Adaptive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NotAdaptive(Adaptive):
    """What the attack's search gives, unchanged."""

    name: ClassVar[str] = "none"


def strategy_of(attack: object) -> Adaptive:
    """The strategy of an attack, which one of an own class need not have."""
    found: Adaptive | None = getattr(attack, "adaptive", None)
    return NotAdaptive() if found is None else found
