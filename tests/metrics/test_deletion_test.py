from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from data.randomness import derive
from metrics.deletion_test import (
    DeletionTest,
    cautious_rate,
    deletion_test,
    hit_rate,
    majority,
    majority_rates,
    queries_needed,
    shared_test,
)

DRAWS = 100_000
# alpha, q, p, n: t, realised alpha, beta
REFERENCE = [
    (1e-3, 0.1, 0.8, 30, 9, "4.544e-04", "4.478e-09"),
    (1e-3, 0.2, 0.8, 30, 13, "9.019e-04", "1.047e-05"),
    (1e-3, 0.1, 0.5, 30, 9, "4.544e-04", "2.139e-02"),
    (1e-3, 0.1, 0.8, 10, 5, "1.469e-04", "3.279e-02"),
    (5e-2, 0.1, 0.3, 30, 6, "2.583e-02", "1.595e-01"),
    (1e-3, 0.1, 0.1, 30, 9, "4.544e-04", "9.995e-01"),
]


def draws(*names: str | int) -> np.random.Generator:
    return np.random.default_rng(derive(0, *names))


@pytest.mark.parametrize(("alpha", "q", "p", "n", "t", "realised", "beta"), REFERENCE)
def test_reference_values_to_four_digits(alpha, q, p, n, t, realised, beta) -> None:
    test = deletion_test(alpha, q, p, n)
    assert test.threshold == t
    assert f"{test.alpha:.3e}" == realised
    assert f"{test.beta:.3e}" == beta


@pytest.mark.parametrize(("alpha", "q", "p", "n"), [row[:4] for row in REFERENCE])
def test_rates_by_simulation(alpha: float, q: float, p: float, n: int) -> None:
    """100,000 draws of either kind; three standard errors."""
    test, rng = deletion_test(alpha, q, p, n), draws("simulation", int(1e4 * q), int(1e4 * p), n)
    accused = (rng.binomial(n, q, DRAWS) > test.threshold).mean()
    believed = (rng.binomial(n, p, DRAWS) <= test.threshold).mean()
    assert abs(accused - test.alpha) <= 3 * math.sqrt(test.alpha * (1 - test.alpha) / DRAWS)
    assert abs(believed - test.beta) <= 3 * math.sqrt(test.beta * (1 - test.beta) / DRAWS)
    assert accused <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / DRAWS)
    assert test.rejects(test.threshold + 1) is test.can_reject
    assert not test.rejects(test.threshold)


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-3, 1e-12])
@pytest.mark.parametrize("n", [1, 2, 7, 30, 400])
def test_the_threshold_is_the_smallest_of_the_level(alpha: float, n: int) -> None:
    for q in (0.0, 1e-9, 0.003, 0.1, 0.5, 0.999, 1.0):
        test = deletion_test(alpha, q, 0.8, n)
        tail = scipy.stats.binom.sf(np.arange(n + 1), n, q)
        assert test.threshold == int(np.argmax(tail <= alpha))
        assert test.alpha == pytest.approx(tail[test.threshold], rel=1e-9, abs=1e-300)
        assert test.alpha <= alpha
        assert test.beta == pytest.approx(scipy.stats.binom.cdf(test.threshold, n, 0.8), rel=1e-9, abs=1e-300)
        assert test.power == pytest.approx(1 - test.beta, abs=1e-12)


def test_to_reject_at_the_threshold_would_exceed_the_level() -> None:
    test = deletion_test(1e-3, 0.1, 0.8, 30)
    assert float(scipy.stats.binom.sf(test.threshold - 1, 30, 0.1)) == pytest.approx(2.0e-3, abs=5e-5)


def test_nothing_is_rejected_without_power_and_certainty_is_no_error() -> None:
    for p in (0.0, 0.1):
        test = deletion_test(1e-3, 0.1, p, 30)
        assert not test.can_reject
        assert not test.rejects(30)
        assert test.beta >= 1 - 1e-3
    certain = deletion_test(1e-3, 0.1, 1.0, 30)
    assert certain.p == 1 - 1e-6
    assert 0 < certain.beta < 1e-100
    assert not deletion_test(1e-3, 1.0, 1.0, 30).can_reject


@pytest.mark.parametrize(
    "wrong", [(0.0, 0.1, 0.8, 30), (1.0, 0.1, 0.8, 30), (1e-3, -0.1, 0.8, 30), (1e-3, 0.1, 1.1, 30), (1e-3, 0, 1, 0)]
)
def test_what_is_no_rate_is_a_mistake(wrong: tuple[float, float, float, int]) -> None:
    with pytest.raises(ValueError, match="deletion test needs"):
        deletion_test(*wrong)


def test_a_shared_test_averages_rates_over_all_queries() -> None:
    shared = shared_test(1e-3, [0.1, 0.3], [0.6, 0.9], [30, 30])
    assert shared == deletion_test(1e-3, 0.2, 0.75, 60)
    uneven = shared_test(1e-3, [0.1, 0.3], [0.6, 0.9], [10, 30])
    assert uneven.queries == 40
    assert (uneven.q, uneven.p) == pytest.approx((0.25, 0.825))
    for wrong in (([0.1], [0.2, 0.3], [5, 5]), ([], [], []), ([0.1], [0.2], [0])):
        with pytest.raises(ValueError, match="every owner"):
            shared_test(1e-3, *wrong)


def test_a_tie_is_no_majority() -> None:
    assert [majority([True] * k + [False] * (4 - k)) for k in range(5)] == [False, False, False, True, True]
    assert [majority([True] * k + [False] * (3 - k)) for k in range(4)] == [False, False, True, True]


def test_rates_of_a_majority_vote() -> None:
    alike = [deletion_test(0.05, 0.1, 0.3, 30)] * 5
    level, power = majority_rates(alike)
    assert level == pytest.approx(scipy.stats.binom.sf(2, 5, alike[0].alpha), rel=1e-9)
    assert power == pytest.approx(scipy.stats.binom.sf(2, 5, alike[0].power), rel=1e-9)
    mute = deletion_test(0.05, 0.3, 0.1, 30)
    assert majority_rates([mute, mute, alike[0]]) == (0.0, 0.0)
    mixed = [alike[0], deletion_test(0.05, 0.1, 0.5, 10), deletion_test(0.05, 0.2, 0.4, 20)]
    hits = [draws("vote", i).binomial(test.queries, test.p, DRAWS) > test.threshold for i, test in enumerate(mixed)]
    share, expected = float((np.sum(hits, axis=0) > 1).mean()), majority_rates(mixed)[1]
    assert abs(share - expected) <= 3 * math.sqrt(expected * (1 - expected) / DRAWS)


def test_estimates() -> None:
    assert hit_rate(3, 4) == 0.75
    assert cautious_rate(0, 99) == pytest.approx(0.01)
    assert cautious_rate(5, 5) == 1.0
    # where nothing was hit in 999 inputs, one hit in 30 does not accuse
    assert not deletion_test(1e-3, cautious_rate(0, 999), 0.8, 30).rejects(1)
    assert deletion_test(1e-3, 0.0, 0.8, 30).rejects(1)
    for hits, count in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="no rate"):
            hit_rate(hits, count)


@pytest.mark.parametrize(("q", "p", "beta"), [(0.1, 0.8, 1e-3), (0.1, 0.5, 1e-3), (0.01, 0.03, 0.05), (0.2, 1.0, 1e-9)])
def test_queries_needed_is_the_first_size_that_suffices(q: float, p: float, beta: float) -> None:
    needed = queries_needed(1e-3, beta, q, p)
    tests: list[DeletionTest] = [deletion_test(1e-3, q, p, n) for n in range(1, 2000)]
    assert needed == next(test.queries for test in tests if test.beta <= beta)


def test_no_number_of_queries_helps_without_power() -> None:
    assert queries_needed(1e-3, 1e-3, 0.1, 0.1) is None
    assert queries_needed(1e-3, 1e-3, 0.1, 0.1001, most=2000) is None
