"""The effect of an attack: what it attained on each target, less what a control of the same size attained."""

from __future__ import annotations

from collections.abc import Sequence

from games.game import Record
from games.request.quantities import CONTROL


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


def split_effects(record: Record, mine: Sequence[int]) -> list[float]:
    """The same of requests that are spread over several streams, less their control, which is spread likewise."""
    found = record["detection"]["split"]
    return _differences(record, found["attack"], found["random"], mine)


def empty(record: Record, target: int) -> bool:
    """Whether nothing was requested for this target."""
    return not record["requests"][record["targets"]["aim"][target]]["indices"]


def _differences(record: Record, first: Record, second: Record, mine: Sequence[int]) -> list[float]:
    one, other = first["attained"], second["attained"]
    return [0.0 if empty(record, i) else one[i] - other[i] for i in mine]
