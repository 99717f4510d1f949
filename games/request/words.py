"""The directions of the request game in words, the same in every view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {"over": "Over-confidence", "under": "Under-confidence"}
UNDIRECTED = {"over": "Unsure targets", "under": "Sure targets"}


def heading(direction: str, criterion: Mapping[str, Any] | None) -> str:
    """What the part of a direction is headed by: the attacker's goal, or where that has no direction its targets."""
    if criterion is None or criterion["directed"]:
        return NAMES[direction]
    return f"{criterion['name'].capitalize()}, {UNDIRECTED[direction].lower()}"
