import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.intervals import bootstrap_interval, mean_interval, paired_difference, rate_interval


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


def test_pairing_removes_what_the_pairs_share():
    generator = torch.Generator().manual_seed(0)
    shared = 100 * torch.randn(10, generator=generator, dtype=torch.float64)
    noise = torch.randn(10, generator=generator, dtype=torch.float64)
    paired = paired_difference(shared + 1 + noise, shared)
    assert paired.mean == pytest.approx(1 + noise.mean().item())
    assert paired.high - paired.low == pytest.approx(mean_interval(noise).high - mean_interval(noise).low)
    with pytest.raises(ValueError, match="one shape"):
        paired_difference(shared, shared[:3])


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


def test_the_bootstrap_matches_the_normal_interval_and_is_repeatable():
    v = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = bootstrap_interval(v, torch.Generator().manual_seed(1))
    half = 1.96 * float(v.std()) / 20
    assert result.low == pytest.approx(result.mean - half, abs=0.15 * half)
    assert result.high == pytest.approx(result.mean + half, abs=0.15 * half)
    assert bootstrap_interval(v, torch.Generator().manual_seed(1)) == result


def test_the_cluster_bootstrap_equals_a_loop_on_the_same_draws():
    values = torch.tensor([1.0, 2.0, 3.0, 10.0, 11.0, 30.0], dtype=torch.float64)
    clusters = torch.tensor([7, 7, 7, 2, 2, 5])
    result = bootstrap_interval(values, torch.Generator().manual_seed(3), clusters, repetitions=500)
    drawn = torch.randint(3, (500, 3), generator=torch.Generator().manual_seed(3))
    groups = [values[clusters == c] for c in (2, 5, 7)]
    means = [float(torch.cat([groups[i] for i in row]).mean()) for row in drawn.tolist()]
    low, high = np.quantile(means, [0.025, 0.975])
    assert (result.low, result.high) == (pytest.approx(low), pytest.approx(high))
    assert "3 clusters" in result.method


def test_clusters_widen_the_interval_of_repeated_values():
    seeds = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, clusters = seeds.repeat_interleave(50), torch.arange(8).repeat_interleave(50)
    naive = bootstrap_interval(values, torch.Generator().manual_seed(1))
    honest = bootstrap_interval(values, torch.Generator().manual_seed(1), clusters)
    assert honest.high - honest.low > 4 * (naive.high - naive.low)


def test_one_cluster_has_no_bounds():
    assert math.isnan(bootstrap_interval(torch.arange(4.0), torch.Generator(), torch.zeros(4, dtype=torch.long)).low)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_level_outside_the_unit_interval_is_refused(level):
    with pytest.raises(ValueError, match="level"):
        mean_interval(torch.arange(3.0), level)
