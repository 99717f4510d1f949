"""Intervals for a mean, a paired difference and a rate."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.measurement import checked_values


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval at `level`; `n` values; `method` says how the bounds were made.

    The bounds are NaN where the data cannot give any, as with a single value.
    """

    mean: float
    low: float
    high: float
    n: int
    method: str
    level: float = 0.95


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"The level of an interval lies strictly between 0 and 1, not {level}.")


def mean_interval(values: Tensor, level: float = 0.95) -> Interval:
    """Student-t interval of the mean of `values` (n,): mean +- t_{n-1} s / sqrt(n).

    One value gives NaN bounds: it says nothing about the spread. Raises ValueError for NaN values.
    """
    from scipy.special import stdtrit

    _check_level(level)
    v = checked_values(values, "Values")
    n, mean = len(v), float(v.mean())
    if n == 1:
        return Interval(mean, float("nan"), float("nan"), 1, "Student t (one value: no spread)", level)
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(v.std()) / n**0.5
    return Interval(mean, mean - half, mean + half, n, "Student t", level)


def paired_difference(first: Tensor, second: Tensor, level: float = 0.95) -> Interval:
    """Student-t interval of the mean of first - second, both (n,), paired by position (the same seeds or targets)."""
    if first.shape != second.shape:
        raise ValueError(f"Paired values have one shape, not {tuple(first.shape)} and {tuple(second.shape)}.")
    one = mean_interval(first.detach().double() - second.detach().double(), level)
    return Interval(one.mean, one.low, one.high, one.n, f"paired {one.method}", level)


def rate_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Exact (Clopper-Pearson) interval of a rate of `successes` among `n` >= 1 independent trials."""
    from scipy.special import betaincinv

    _check_level(level)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"A rate needs n >= 1 and 0 <= successes <= n, not {successes} of {n}.")
    tail = (1.0 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1.0 - tail))
    return Interval(successes / n, low, high, n, "Clopper-Pearson", level)


def bootstrap_interval(
    values: Tensor,
    generator: torch.Generator,
    clusters: Tensor | None = None,
    level: float = 0.95,
    repetitions: int = 2000,
) -> Interval:
    """Percentile bootstrap interval of the mean of `values` (n,), resampling whole clusters with replacement.

    `clusters` (n,) integers name the group of each value (the seed that trained its model): values of one group are not
    independent, so a group is drawn as one. Without it every value is its own group. A resample's mean is over its
    pooled values. One group gives NaN bounds. Only `generator` is advanced.
    """
    _check_level(level)
    if repetitions < 1:
        raise ValueError(f"The bootstrap needs at least one repetition, not {repetitions}.")
    v = checked_values(values, "Values")
    n, mean = len(v), float(v.mean())
    if clusters is None:
        groups, method = torch.arange(n), f"percentile bootstrap, {repetitions} repetitions"
    elif clusters.shape != v.shape:
        raise ValueError(f"Clusters have the shape of the values {(n,)}, not {tuple(clusters.shape)}.")
    else:
        groups = torch.unique(clusters.detach().cpu(), return_inverse=True)[1]
        method = f"percentile bootstrap over {int(groups.max()) + 1} clusters, {repetitions} repetitions"
    sizes = torch.bincount(groups).double()
    sums = torch.zeros_like(sizes).index_add_(0, groups, v)
    count = len(sizes)
    if count == 1:
        return Interval(mean, float("nan"), float("nan"), n, method, level)
    means = []
    block = max(1, 5_000_000 // count)  # bounds the memory of the (repetitions, groups) table of draws
    for start in range(0, repetitions, block):
        drawn = torch.randint(count, (min(block, repetitions - start), count), generator=generator)
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    tails = torch.tensor([(1.0 - level) / 2, (1.0 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.cat(means), tails).tolist()
    return Interval(mean, low, high, n, method, level)
