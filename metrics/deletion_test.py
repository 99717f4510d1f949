"""Were records with a private trigger deleted? The exact binomial test of hits, for one owner and for several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CERTAIN = 1e-6  # how far below 1 a rate p is taken to be at least
BLOCK = 1024  # sizes of a test that are tried at once


@dataclass(frozen=True)
class DeletionTest:
    """A test of "the records were deleted" by the hits X among `queries` triggered inputs; made by `deletion_test`.

    X ~ Bin(queries, q) where they were deleted, and Bin(queries, p) where they were not. It rejects iff X exceeds the
    `threshold`. `alpha` is the realised rate at which an honest provider is accused, `beta` the rate at which a model
    that kept all is believed, and `power` is 1 - beta, without its loss of precision.
    """

    queries: int
    q: float
    p: float
    threshold: int
    alpha: float
    beta: float
    power: float

    @property
    def can_reject(self) -> bool:
        """False where p <= q: hits are then no sign of records that were kept."""
        return self.p > self.q

    def rejects(self, hits: int) -> bool:
        """Whether so many hits say that the records were not deleted."""
        return self.can_reject and hits > self.threshold


def deletion_test(alpha: float, q: float, p: float, n: int) -> DeletionTest:
    """The exact test of level `alpha` with n queries: t = min {k : F_q(k) >= 1 - alpha}, reject iff X >= t + 1.

    F_q is the distribution function of Bin(n, q). The realised level is 1 - F_q(t) <= alpha, and beta = F_p(t); to
    reject at X = t as well would be easier, and beyond the level. p = 1 is taken as 1 - 1e-6. q >= p is no error: see
    `can_reject`. Source: Sommer, Song, Wagh, Mittal, "Athena", PETS 2022. Raises ValueError for rates outside [0, 1],
    an alpha outside (0, 1) or n < 1.
    """
    if not (0 < alpha < 1 and 0 <= q <= 1 and 0 <= p <= 1 and n >= 1):
        raise ValueError(f"A deletion test needs 0 < alpha < 1, rates and n >= 1; got {alpha}, q={q}, p={p}, n={n}.")
    from scipy.special import bdtr, bdtrc

    p = min(p, 1 - CERTAIN)
    t = int(_thresholds(alpha, q, np.asarray([n]))[0])
    return DeletionTest(n, q, p, t, float(bdtrc(t, n, q)), float(bdtr(t, n, p)), float(bdtrc(t, n, p)))


def shared_test(alpha: float, q: Sequence[float], p: Sequence[float], n: Sequence[int]) -> DeletionTest:
    """One test for the hits of all owners together: sum(n) queries, and their rates averaged, weighted by queries."""
    total = sum(n)
    if not len(q) == len(p) == len(n) or total < 1:
        raise ValueError(f"A shared test needs rates and queries of every owner; got {len(q)}, {len(p)} and {list(n)}.")
    mean_q, mean_p = (math.fsum(r * k for r, k in zip(rates, n, strict=True)) / total for rates in (q, p))
    return deletion_test(alpha, min(1.0, mean_q), min(1.0, mean_p), total)


def majority(rejected: Sequence[bool]) -> bool:
    """Whether more than half of the owners reject; a tie is no rejection."""
    return sum(rejected) > len(rejected) // 2


def majority_rates(tests: Sequence[DeletionTest]) -> tuple[float, float]:
    """(level, power) of a majority vote, as if its tests were independent: the chance that more than half reject.

    Given q. Tests of one model share it and their estimate of q, so that these are no bounds.

    Tests that cannot reject count as owners who never do.
    """
    most, able = len(tests) // 2, [test for test in tests if test.can_reject]
    return _more_than(most, [test.alpha for test in able]), _more_than(most, [test.power for test in able])


def hit_rate(hits: int, count: int) -> float:
    """p: the share of hits among `count` triggered inputs of a model that learned the trigger."""
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"{hits} hits of {count} inputs are no rate.")
    return hits / count


def cautious_rate(hits: int, count: int) -> float:
    """q = (hits + 1) / (count + 1): as if one input more had been a hit.

    Ours: that no trigger was hit does not make it impossible; with q = 0 one accidental hit would accuse a provider.
    """
    hit_rate(hits, count)  # which checks them
    return (hits + 1) / (count + 1)


def queries_needed(alpha: float, beta: float, q: float, p: float, most: int = 10_000) -> int | None:
    """The smallest n at which the test of level `alpha` believes a model that kept all at a rate of at most `beta`.

    None where no n up to `most` does.
    """
    from scipy.special import bdtr

    if p <= q:
        return None
    p = min(p, 1 - CERTAIN)
    for first in range(1, most + 1, BLOCK):
        n = np.arange(first, min(first + BLOCK, most + 1))
        enough = bdtr(_thresholds(alpha, q, n), n, p) <= beta
        if enough.any():
            return int(n[enough.argmax()])
    return None


def _thresholds(alpha: float, q: float, n: NDArray[np.int64]) -> NDArray[np.int64]:
    """min {k : 1 - F_q(k) <= alpha} of every n, by bisection on the tail itself, which is exact where small."""
    from scipy.special import bdtrc

    low, high = np.full_like(n, -1), n.copy()  # too small, and large enough: the tail beyond n is 0
    while (high - low > 1).any():
        middle = (low + high) // 2
        fits = (middle >= 0) & (bdtrc(np.maximum(middle, 0), n, q) <= alpha)
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    return high


def _more_than(most: int, rates: Sequence[float]) -> float:
    """The chance that more than `most` of independent events happen that have these rates."""
    chances: NDArray[np.float64] = np.ones(1)  # of 0, 1, ... events
    for rate in rates:
        chances = np.convolve(chances, [1 - rate, rate]).astype(np.float64)
    return min(1.0, float(chances[most + 1 :].sum()))
