"""Words of the request game that are the same in every view: its directions, and what an attacker knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {"over": "Over-confidence", "under": "Under-confidence"}
UNDIRECTED = {"over": "Unsure targets", "under": "Sure targets"}
UNAWARE = "This attacker does not know of the filter; attack/adaptive=auto plays one that does, which is its measure."
SPLIT = (
    "This attacker does not know of the filter. One that does, and spreads its requests over several streams, stands "
    "beside it (split); attack/adaptive=auto tries more, which is the measure of a filter."
)


def heading(direction: str, criterion: Mapping[str, Any] | None) -> str:
    """What the part of a direction is headed by: the attacker's goal, or where that has no direction its targets."""
    if criterion is None or criterion["directed"]:
        return NAMES[direction]
    return f"{criterion['name'].capitalize()}, {UNDIRECTED[direction].lower()}"
