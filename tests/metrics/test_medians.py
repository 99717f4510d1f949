"""The median and its interval by order statistics, with values that are only known to be large."""

import math

import pytest
import torch

from metrics.medians import median_interval


def test_known_ranks() -> None:
    """Tables of the sign test: for n = 24 the bounds are the 7th and the 18th value, for n = 6 the first and last."""
    found = median_interval(range(1, 25))
    assert (found.median, found.low, found.high, found.n) == (12.5, 7, 18, 24)
    assert (median_interval(range(1, 7)).low, median_interval(range(1, 7)).high) == (1, 6)
    assert (median_interval(range(1, 6)).low, median_interval(range(1, 6)).high) == (-math.inf, math.inf)


def test_censored_values_are_beyond() -> None:
    most = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, *[math.inf] * 3]
    assert median_interval(most).median == 6.0
    assert median_interval(most).high == math.inf
    assert median_interval([1.0] * 5 + [math.inf] * 5).median == math.inf


def test_covers_the_median_as_often_as_it_says() -> None:
    """Of a skewed distribution, for n = 15: the exact coverage is 96.5%."""
    draws = torch.empty(4000, 15).exponential_(generator=torch.Generator().manual_seed(0))
    found = [median_interval(row) for row in draws.tolist()]
    share = sum(each.low <= math.log(2) <= each.high for each in found) / len(found)
    assert share == pytest.approx(0.965, abs=0.01)


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_values_that_have_no_median_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="no NaN"):
        median_interval(values)


def test_a_level_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="strictly between"):
        median_interval([1.0], level=1.0)
