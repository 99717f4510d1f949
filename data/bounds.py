"""Bounds of options: what is beyond them is refused with the reason, before memory or time is taken for it."""

from __future__ import annotations

from pydantic import AfterValidator

EXACT = 2**53  # beyond, not every whole number has a float64 of its own, nor a place in every reader of JSON


def at_most(bound: int, why: str) -> AfterValidator:
    """For `Annotated[int, ...]`: no more than `bound`; the sentence says that, and `why`."""

    def check(value: int) -> int:
        if value > bound:
            raise ValueError(f"{bound:,} is the most, since {why}; it is {shown(value)}")
        return value

    return AfterValidator(check)


def exact(value: int) -> int:
    """For `Annotated[int, AfterValidator(exact)]`: a seed that every record can hold."""
    if abs(value) > EXACT:
        raise ValueError(f"{EXACT:,} is the most, since records hold no larger numbers exactly; it is {shown(value)}")
    return value


def shown(value: int) -> str:
    """A number in a sentence."""
    return f"{value:,}" if abs(value) < 10**15 else f"{value:.0e}" if abs(value) < 10**300 else "far larger"
