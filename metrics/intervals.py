"""Intervals for a mean, a paired difference, a share, and for values that come in groups (the seeds of games)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from metrics.measurement import checked_values


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval at `level`; `n` values; `method` says how the bounds were made.

    The bounds are NaN where the data cannot give any, as with a single value. `over` says, where it is known, what was
    drawn at random: what another draw of it would give lies between the bounds.
    """

    mean: float
    low: float
    high: float
    n: int
    method: str
    level: float = 0.95
    over: str = ""


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


def share_interval(share: float, variance: float, freedom: float, trials: float, level: float = 0.95) -> Interval:
    """Interval in [0, 1] of a share, a rate or an AUROC whose `variance` was estimated with `freedom` degrees.

    Clopper-Pearson bounds at the effective sample size p(1 - p) / variance, which is reduced by (z / t_freedom)^2 for
    the uncertainty of the variance and is at most `trials` (infinite where values are no yes or no): Korn and Graubard,
    Survey Methodology 24 (1998), with the cap taken after the reduction. Where the variance is 0 it is `trials`,
    reduced likewise. NaN bounds without a degree of freedom, or where nothing is known of the spread.
    """
    from scipy.special import betaincinv, ndtri, stdtrit

    _check_level(level)
    if not 0 <= share <= 1 or trials <= 0:
        raise ValueError(f"A share lies in [0, 1] and has at least one trial, not {share} of {trials}.")
    tail = (1 - level) / 2
    method = "Clopper-Pearson at the effective sample size"
    n = int(trials) if trials != float("inf") else 0
    if freedom < 1:
        return Interval(share, float("nan"), float("nan"), n, f"{method} (one group: no spread)", level)
    reduced = float(ndtri(1 - tail) / stdtrit(freedom, 1 - tail)) ** 2
    spread = share * (1 - share)
    if variance > 1e-15 and spread > 0:
        size = min(trials, spread / variance * reduced)
    else:
        size = reduced * (trials if trials != float("inf") else freedom + 1)
    hits = share * size
    low = 0.0 if share == 0 else float(betaincinv(hits, size - hits + 1, tail))
    high = 1.0 if share == 1 else float(betaincinv(hits + 1, size - hits, 1 - tail))
    return Interval(share, low, high, n, method, level)


def interval_of_values(
    groups: Sequence[Sequence[float]], share: bool, bounds: tuple[float, float] | None, units: str, trials: bool = False
) -> Interval:
    """`grouped_interval` of plain numbers by seed, as they stand in records.

    Values that are not finite are left out: an AUROC, for example, is undefined when every answer is right. Without any
    value mean and bounds are NaN.
    """
    finite = [list(filter(math.isfinite, group)) for group in groups]
    every = torch.tensor([*chain.from_iterable(finite)], dtype=torch.float64)
    if not len(every):
        return Interval(float("nan"), float("nan"), float("nan"), 0, "no defined value")
    kind = "trials" if trials else "share" if share else "plain"
    return _of_groups(every, [len(group) for group in finite if group], kind, bounds, units)


def grouped_interval(
    groups: Sequence[Tensor],
    kind: str = "plain",
    bounds: tuple[float, float] | None = None,
    units: str = "targets",
    level: float = 0.95,
) -> Interval:
    """Interval of the mean over groups of the mean within a group: groups are drawn at random, values within them too.

    `groups` holds the values of each seed; empty groups are left out. With several groups their means are what counts
    as independent (values of one seed share a model); with one group its values are, and the interval says nothing
    about other seeds. `kind` plain: Student's t, cut at `bounds`, between which the mean must lie. `kind` share: values
    in [0, 1], by `share_interval`; yes and no (0 and 1) of one group get the exact Clopper-Pearson interval. `kind`
    trials: shares that are yes or no by nature, of which one value of each group gets the exact interval too. Plain
    values, and shares that are no yes or no, have no bounds where all are equal: they say nothing about their spread.

    `n` counts the values. Raises ValueError without any value, for a NaN, and for shares outside [0, 1].
    """
    values = [group.detach().to("cpu", torch.float64) for group in groups if len(group)]
    if not values:
        raise ValueError("An interval needs at least one value.")
    return _of_groups(torch.cat(values), [len(group) for group in values], kind, bounds, units, level)


def _of_groups(
    every: Tensor,
    sizes: Sequence[int],
    kind: str,
    bounds: tuple[float, float] | None,
    units: str,
    level: float = 0.95,
) -> Interval:
    """The same from all values in a row, and the sizes of their groups."""
    if kind not in ("plain", "share", "trials"):
        raise ValueError(f'The kind of an interval is "plain", "share" or "trials", not {kind!r}.')
    checked_values(every, "Values")
    one = len(sizes) == 1
    single = one or len(every) == len(sizes)  # as of thousands of games, each with one value
    means = every if single else torch.stack([group.mean() for group in every.split(list(sizes))])
    over = f"{len(means)} {units} of one seed" if one else f"{len(sizes)} seeds"
    if kind != "plain":
        if bool(((every < 0) | (every > 1)).any()):
            raise ValueError("Shares lie in [0, 1].")
        binary = bool(((every == 0) | (every == 1)).all())
        if binary and len(every) > 1 and (one or (single and kind == "trials")):
            found = rate_interval(int(every.sum()), len(every), level)
        elif not binary and _all_equal(means):  # as of models that nothing has changed
            nan = float("nan")
            found = Interval(float(means.mean()), nan, nan, len(every), "all equal: no spread seen", level)
        else:
            variance = float(means.var()) / len(means) if len(means) > 1 else 0.0
            trials = float(len(every)) if binary else float("inf")
            found = share_interval(min(max(float(means.mean()), 0.0), 1.0), variance, len(means) - 1, trials, level)
        return Interval(found.mean, found.low, found.high, len(every), found.method, level, over)
    found = mean_interval(means, level)
    if _all_equal(means):  # no width would say that nothing can vary
        nan = float("nan")
        return Interval(found.mean, nan, nan, len(every), "Student t (all equal: no spread seen)", level, over)
    low, high = (found.low, found.high) if bounds is None else (max(found.low, bounds[0]), min(found.high, bounds[1]))
    if found.low != found.low:  # NaN
        low = high = found.low
    return Interval(found.mean, low, high, len(every), found.method, level, over)


def crossed_interval(
    values: Tensor,
    kind: str = "plain",
    bounds: tuple[float, float] | None = None,
    units: str = "requests",
    level: float = 0.95,
) -> Interval:
    """Interval of the mean of a table (R, F) whose rows and columns both stand for others: `units`, and fresh seeds.

    Var(mean) = s_R^2/R + s_F^2/F - s_e^2/(R F) from the mean squares of row means, column means and residuals, at least
    the larger of the first two terms, with Satterthwaite's degrees of freedom. `kind` and `bounds` are those of
    `grouped_interval`. NaN bounds with a single row or column, and where nothing varies; yes and no that are the same
    everywhere get the exact interval over rows.
    """
    from scipy.special import stdtrit

    rows, columns = values.shape
    v = checked_values(values.reshape(-1), "Values").reshape(rows, columns)
    mean, nan, over = float(v.mean()), float("nan"), f"{rows} {units} and {columns} fresh seeds of one seed"
    if rows < 2 or columns < 2:
        return Interval(mean, nan, nan, rows * columns, "two-way (a single row or column: no spread)", level, over)
    by_row, by_column = v.mean(1, keepdim=True), v.mean(0, keepdim=True)
    first, second = float(by_row.var()) / rows, float(by_column.var()) / columns
    rest = float(((v - by_row - by_column + v.mean()) ** 2).sum()) / ((rows - 1) * (columns - 1)) / (rows * columns)
    variance = max(first + second - rest, first, second)
    if variance <= 1e-18:
        if kind == "share" and mean in (0.0, 1.0):
            exact = rate_interval(round(mean * rows), rows, level)
            return Interval(mean, exact.low, exact.high, rows * columns, exact.method, level, over)
        return Interval(mean, nan, nan, rows * columns, "two-way (all equal: no spread seen)", level, over)
    parts = first**2 / (rows - 1) + second**2 / (columns - 1) + rest**2 / ((rows - 1) * (columns - 1))
    freedom = min(variance**2 / parts, float((rows - 1) * columns)) if parts > 0 else float(rows - 1)
    if kind == "share":
        found = share_interval(min(max(mean, 0.0), 1.0), variance, max(freedom, 1.0), float("inf"), level)
        return Interval(mean, found.low, found.high, rows * columns, found.method, level, over)
    half = float(stdtrit(max(freedom, 1.0), 0.5 + level / 2)) * variance**0.5
    low, high = bounds or (float("-inf"), float("inf"))
    return Interval(mean, max(mean - half, low), min(mean + half, high), rows * columns, "two-way t", level, over)


def _all_equal(values: Tensor) -> bool:
    """Whether several values are the same up to rounding."""
    return len(values) > 1 and float(values.max() - values.min()) <= 1e-9 * max(1.0, float(values.abs().max()))
