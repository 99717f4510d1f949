"""How metrics of the verification game read their numbers in a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from games.game import Part, Values
from games.metric import number, whole


def at(*path: str) -> Callable[[Part], Values]:
    """What reads one number of a record; where it is not there, or not finite, the metric is not defined."""

    def values(part: Part) -> Values:
        found: Any = part.record
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return whole(number(float(found) if isinstance(found, bool) else found))

    return values


def less(one: tuple[str, ...], other: tuple[str, ...], factor: float = 1.0) -> Callable[[Part], Values]:
    """What reads the difference of two numbers of a record."""

    def values(part: Part) -> Values:
        a, b = at(*one)(part), at(*other)(part)
        return {unit: factor * (a[unit] - b[unit]) for unit in a.keys() & b.keys()}

    return values


def ratio(one: tuple[str, ...], other: tuple[str, ...]) -> Callable[[Part], Values]:
    """What reads the ratio of two numbers of a record; not defined where the second is 0."""

    def values(part: Part) -> Values:
        a, b = at(*one)(part), at(*other)(part)
        return {unit: a[unit] / b[unit] for unit in a.keys() & b.keys() if b[unit]}

    return values


def over_users(*path: str) -> Callable[[Part], Values]:
    """What reads the mean of a list with a number for every user; those that are not finite are left out."""

    def values(part: Part) -> Values:
        found: Any = part.record
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        there = [each for each in map(number, found) if each is not None] if isinstance(found, list) else []
        return whole(sum(there) / len(there) if there else None)

    return values
