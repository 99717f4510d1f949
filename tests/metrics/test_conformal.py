import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.conformal import coverage, mean_set_size, prediction_sets, quantile, rank, scores


def test_the_rank_is_exact_where_floating_point_is_not():
    assert math.ceil((99 + 1) * (1 - 0.45)) == 56  # the trap
    assert rank(99, 0.45) == 55
    assert rank(9, 0.3) == 7  # the exact value of the double 0.3, a little less than 3/10, would give 8
    assert quantile(torch.arange(1.0, 100.0), 0.45) == 55.0


@given(st.integers(1, 2000), st.integers(1, 999))
@settings(max_examples=100, deadline=None)
def test_the_rank_equals_integer_arithmetic(n, thousandths):
    alpha = thousandths / 1000
    assert rank(n, alpha) == -(-(n + 1) * (1000 - thousandths) // 1000)
    assert rank(n, Fraction(thousandths, 1000)) == rank(n, alpha)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_an_alpha_outside_the_unit_interval_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        rank(10, alpha)


def test_the_quantile_is_a_score_and_infinite_when_there_are_too_few():
    s = torch.tensor([0.3, 0.1, 0.2, 0.5, 0.4], dtype=torch.float64)
    assert quantile(s, 0.1) == math.inf
    assert quantile(s, 0.5) == 0.3
    full = prediction_sets(torch.tensor([[1.0, 0.0, 0.0]]), math.inf)
    assert full.all()
    assert mean_set_size(full).value == 3


def test_sets_scores_coverage_and_size_by_hand():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]], dtype=torch.float64)
    y = torch.tensor([1, 2])
    torch.testing.assert_close(scores(p, y), torch.tensor([0.7, 0.95], dtype=torch.float64))
    sets = prediction_sets(p, 0.7)
    assert sets.tolist() == [[True, True, False], [True, False, False]]
    result = coverage(sets, y, alpha=0.1)
    assert (result.value, result.n, result.settings["promised"]) == (0.5, 2, 0.9)
    assert mean_set_size(sets).value == 1.5
    assert mean_set_size(prediction_sets(p, 0.05)).settings["empty"] == 1.0


def synthetic(generator: torch.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    p = torch.randn(n, 5, generator=generator, dtype=torch.float64).softmax(1)
    return p, torch.multinomial(p, 1, generator=generator)[:, 0]


def test_exchangeable_data_are_covered_as_promised():
    generator = torch.Generator().manual_seed(0)
    covered = []
    for _ in range(200):
        p, y = synthetic(generator, 1000)
        threshold = quantile(scores(p[:500], y[:500]), 0.1)
        covered.append(coverage(prediction_sets(p[500:], threshold), y[500:]).value)
    assert 0.89 <= sum(covered) / 200 <= 0.92


def test_a_smaller_alpha_gives_larger_sets_up_to_full_ones():
    generator = torch.Generator().manual_seed(1)
    p, y = synthetic(generator, 500)
    s = scores(p, y)
    sizes = [mean_set_size(prediction_sets(p, quantile(s, alpha))).value for alpha in (0.5, 0.2, 0.05, 1e-6)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 5
