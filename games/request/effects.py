"""The effect of an attack: what it attained on each target, less what a control of the same size attained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
# The state that a state is compared with: a random request of the same size, treated alike by the same filter.
CONTROL = {"after": "random", "stream": "stream_random", "defended": "defended_random"}
# Every state of the targets, in the order in which they are shown.
STATES = (
    "before", "after", "random", "nearest", "stream", "stream_random", "defended", "defended_random", "processed",
    "benign",
)  # fmt: skip
SHARED = ("before", "benign", "nothing")  # states whose models belong to all requests; the others have one for each
FRESH = ("nothing", "after", "random", "defended", "defended_random")  # states judged with fresh seeds


def of_direction(record: Record, direction: str) -> list[int]:
    """The targets of a direction, by their place in the record."""
    return [i for i, each in enumerate(record["targets"]["direction"]) if each == direction]


def effects(record: Record, state: str, mine: Sequence[int]) -> list[float]:
    """attained(state) - attained(its control) of the targets `mine`, with the victim's own seed.

    Positive is what the attacker wants. A request of nothing has an effect of 0 by definition.
    """
    states = record["victim_seed"]
    return _differences(record, states[state], states[CONTROL[state]], mine)


def fresh_effects(record: Record, state: str, mine: Sequence[int]) -> list[float]:
    """The same with fresh seeds, averaged over them: both sides of a difference are judged with the same seed."""
    runs = effects_by_fresh_seed(record, state, mine)
    return [sum(values) / len(runs) for values in zip(*runs, strict=True)]


def effects_by_fresh_seed(record: Record, state: str, mine: Sequence[int]) -> list[list[float]]:
    """The same for every fresh seed."""
    fresh = record["fresh_seeds"]
    pairs = zip(fresh[state], fresh[CONTROL[state]], strict=True)
    return [_differences(record, first, second, mine) for first, second in pairs]


def empty(record: Record, target: int) -> bool:
    """Whether nothing was requested for this target."""
    return not record["requests"][record["targets"]["aim"][target]]["indices"]


def _differences(record: Record, first: Record, second: Record, mine: Sequence[int]) -> list[float]:
    one, other = first["attained"], second["attained"]
    return [0.0 if empty(record, i) else one[i] - other[i] for i in mine]
