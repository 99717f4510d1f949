import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.intervals import mean_interval, rate_interval


def test_the_t_interval_equals_scipy():
    from scipy import stats

    v = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = stats.t.interval(0.9, 6, loc=v.mean().item(), scale=stats.sem(v.numpy()))
    result = mean_interval(v, 0.9)
    assert (result.low, result.high) == (pytest.approx(low), pytest.approx(high))
    assert (result.n, result.level, result.mean) == (7, 0.9, pytest.approx(v.mean().item()))


def test_one_value_has_no_bounds_and_none_is_refused():
    result = mean_interval(torch.tensor([3.0]))
    assert result.mean == 3.0
    assert math.isnan(result.low)
    assert math.isnan(result.high)
    with pytest.raises(ValueError, match="n >= 1"):
        mean_interval(torch.zeros(0))


@given(st.integers(1, 60), st.data())
@settings(max_examples=40, deadline=None)
def test_the_rate_interval_equals_scipy(n, data):
    from scipy.stats import binomtest

    k = data.draw(st.integers(0, n))
    reference = binomtest(k, n).proportion_ci(0.95, method="exact")
    result = rate_interval(k, n)
    assert (result.low, result.high) == (
        pytest.approx(reference.low, abs=1e-9),
        pytest.approx(reference.high, abs=1e-9),
    )


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_level_outside_the_unit_interval_is_refused(level):
    with pytest.raises(ValueError, match="level"):
        mean_interval(torch.arange(3.0), level)
