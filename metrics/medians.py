"""A median with an interval that holds for any distribution, and where some values are only known to be large."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Median:
    """The median of `n` values with the bounds of its interval at `level`; infinite: beyond what was looked at."""

    median: float
    low: float
    high: float
    n: int
    level: float = 0.95


def median_interval(values: Sequence[float], level: float = 0.95) -> Median:
    """The median of independent values, between the order statistics x_(k) and x_(n+1-k).

    k is the largest for which P(Binomial(n, 1/2) < k) <= (1 - level) / 2, whatever the distribution (ties only widen
    what is covered). Values that are known to lie beyond a bound, such as searches that were stopped, are infinite:
    order statistics do not care by how much. Where n is even the median is the mean of the two in the middle, infinite
    where one of them is. The bounds are -inf and inf where n is too small for any (n < 6 at 95%).

    Raises ValueError without a value, for a NaN, and for a level that is not between 0 and 1.
    """
    if not values or any(math.isnan(value) for value in values):
        raise ValueError("A median needs at least one value, and no NaN.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"The level of an interval lies strictly between 0 and 1, not {level}.")
    ordered, n = sorted(values), len(values)
    below, k = 0.0, 0  # P(Binomial(n, 1/2) < k)
    while k < n and below + math.comb(n, k) / 2**n <= (1 - level) / 2:
        below += math.comb(n, k) / 2**n
        k += 1
    low, high = (ordered[k - 1], ordered[n - k]) if k else (-math.inf, math.inf)
    return Median((ordered[(n - 1) // 2] + ordered[n // 2]) / 2, low, high, n, level)
