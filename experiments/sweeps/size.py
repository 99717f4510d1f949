"""How many cells a sweep has, known before the first of them is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override, RangeSweep

MOST = 100_000  # cells of a sweep


def check_count(overrides: Sequence[Override]) -> None:
    """Refuse a sweep of more than `MOST` cells before any of its values is made; raises UserError."""
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep, Sweep

    count = 1
    for each in overrides:
        values = each.value()
        if isinstance(values, RangeSweep):
            count *= _length(values, str(each.input_line))
        elif isinstance(values, ChoiceSweep):
            if any(isinstance(value, Sweep) for value in values.list):
                raise UserError(f"{each.input_line} mixes a list with a range; write all values, or one range.")
            count *= max(1, len(values.list))
    if count > MOST:
        raise UserError(
            f"This is a sweep of {count:,} cells, and {MOST:,} are the most, since all are planned before the first is "
            "played; sweep over fewer values."
        )


def _length(values: RangeSweep, typed: str) -> int:
    """How many values a range has; at least 1, since an empty one is refused where it is made."""
    start, stop, step = values.start or 0, values.stop or 0, values.step
    numbers = [Fraction(each) if math.isfinite(each) else None for each in (start, stop, step)]
    if None in numbers or step == 0:
        raise UserError(
            f"{typed} never ends; write range(START,STOP,STEP) with finite numbers and a step that is not 0."
        )
    first, last, apart = (each for each in numbers if each is not None)
    return max(1, math.ceil((last - first) / apart))
