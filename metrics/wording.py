"""Means, intervals and counts in words, the same in every view."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def plus_minus(interval: Mapping[str, Any], digits: int, factor: float = 1.0) -> str:
    """A mean with the half-width of its interval, or with both ends where these lie unevenly around it."""
    mean, low, high = (factor * float(interval[key]) for key in ("mean", "low", "high"))
    if math.isnan(low):
        return f"{mean:.{digits}f}"
    down, up = f"{mean - low:.{digits}f}", f"{high - mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {up}" if down == up else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def rate(interval: Mapping[str, Any], digits: int) -> str:
    """A share in percent with its interval."""
    mean, low, high = (100 * float(interval[key]) for key in ("mean", "low", "high"))
    return f"{mean:.{digits}f}" if math.isnan(low) else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def signed(interval: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    mean, low, high = (float(interval[key]) for key in ("mean", "low", "high"))
    return f"{mean:+.3f}" if math.isnan(low) else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def bracketed(interval: Mapping[str, Any], digits: int = 2) -> str:
    """A number with its interval in brackets."""
    mean, low, high = (float(interval[key]) for key in ("mean", "low", "high"))
    return f"{mean:.{digits}f}" if math.isnan(low) else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def of_fewer(n: int, games: int) -> str:
    """What follows a number that only `n` of the `games` in its row have, as ` (n=2)`; nothing where all have it."""
    return f" (n={n})" if 0 < n < games else ""


def count(n: int, noun: str) -> str:
    """A number of things in words."""
    return f"{n:,} {noun}{'s' * (n != 1)}"
