"""One direction of a record of the request game, and its raw numbers by target or by request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

from games.game import WHOLE, Part, Record, Values
from games.metric import number, whole
from games.request.quantities import BESIDE, SIGN
from games.request.words import heading

FLOAT = {float}


@dataclass(frozen=True)
class Direction(Part):
    """One direction of a record: its targets `mine`, and the requests `goals` for them, one each or one for all."""

    mine: tuple[int, ...] = ()
    goals: tuple[int, ...] = ()

    @property
    def sign(self) -> int:
        """+1 where the attacker wants confidence to rise, -1 where it is to fall."""
        return SIGN[self.name]

    @cached_property
    def units(self) -> tuple[str, ...]:
        """The targets `mine` by test position; a listing of many games asks hundreds of times."""
        positions = self.record["targets"]["position"]
        return tuple(str(positions[i]) for i in self.mine)

    @cached_property
    def judged(self) -> tuple[tuple[str, ...], Callable[[Sequence[Any]], Sequence[Any]]]:
        """The units of a metric of models, and what takes the model of each: a target's own, or one for all."""
        if len(self.goals) == len(self.mine) > 1 or self.record["config"]["game"]["targets"]["mode"] == "single":
            return self.units, _taker([self.record["targets"]["aim"][i] for i in self.mine])
        return (WHOLE,), _taker(self.goals[:1])

    @cached_property
    def taken(self) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """What takes the numbers of the targets `mine` from those of all."""
        return _taker(self.mine)

    def targets(self, state: Mapping[str, Any], metric: str) -> Values:
        """A metric of the targets in a state, by test position."""
        values = self.taken(state[metric])
        plain = values if set(map(type, values)) == FLOAT else map(float, values)
        return dict(zip(self.units, plain, strict=True))

    def by_target(self, values: Sequence[float]) -> Values:
        """Values of the targets `mine`, in their order, by test position."""
        return dict(zip(self.units, values, strict=True))

    def own(self, state: str, metric: str) -> Values:
        """A metric of the targets, judged with the victim's own seed."""
        return self.targets(self.record["victim_seed"][state], metric)

    def models(self, state: str, metric: str) -> Values:
        """A metric of the models: by target where every target has its own request, else one number.

        Before the attack there is one model for all; of the benign control the mean over its models is taken.
        """
        found = self.record["victim_seed"][state].get("models", {}).get(metric)
        if found is None:  # a certificate of a procedure that gives none, or a state of targets only
            return {}
        units, taken = self.judged
        if state in ("before", "benign"):
            finite = [value for value in map(number, found) if value is not None]
            return dict.fromkeys(units, sum(finite) / len(finite)) if finite else {}
        values = taken(found)
        if set(map(type, values)) == FLOAT:
            return dict(zip(units, values, strict=True))
        return {unit: value for unit, value in zip(units, map(number, values), strict=True) if value is not None}

    def fresh(self, state: str, metric: str) -> Values:
        """A metric of the targets, averaged over fresh seeds; empty for a procedure that draws nothing."""
        found = self.record["fresh_seeds"]
        if found is None:
            return {}
        runs = [self.taken(each[metric]) for each in found[state]]
        return {unit: sum(values) / len(runs) for unit, values in zip(self.units, zip(*runs, strict=True), strict=True)}

    def detection(self, *path: str) -> Values:
        """A number of what the filter did; empty without a malicious request.

        Without a filter there are only those of the scores that are computed whatever decides.
        """
        if self.record["detection"]["defense"] == "none" and path[0] not in BESIDE:
            return {}
        return self.detected(self.name, *path)

    def detected(self, *path: str) -> Values:
        """A number of the record of what was detected, by its keys; empty where there is none."""
        found: Any = self.record["detection"]
        for key in (*path, "value"):
            if found is None or key not in found:
                return {}
            found = found[key]
        return whole(number(found))


def _taker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """What takes the values at `places`; a listing of many games does so millions of times."""
    return itemgetter(*places) if len(places) > 1 else lambda values: [values[i] for i in places]


def of_direction(record: Record, direction: str) -> list[int]:
    """The targets of a direction, by their place in the record."""
    return [i for i, each in enumerate(record["targets"]["direction"]) if each == direction]


def directions(record: Record) -> list[Direction]:
    """The directions of a record, in the order in which they were played."""
    found = []
    for name in dict.fromkeys(record["targets"]["direction"]):
        mine = tuple(of_direction(record, name))
        goals = tuple(sorted({record["targets"]["aim"][i] for i in mine}))
        found.append(Direction(name, heading(name, record["criterion"]), record, mine, goals))
    return found
