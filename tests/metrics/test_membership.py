"""Membership statistics against brute force, scipy and closed forms; the tests keep their levels."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.detection import auroc
from metrics.margins import margins
from metrics.membership import (
    ema_members,
    ema_metrics,
    ema_rho,
    ema_thresholds,
    lira_score,
    log_odds,
    null_variance,
    separation,
)

SOME = st.lists(st.integers(-6, 6), min_size=2, max_size=30).map(lambda v: torch.tensor(v, dtype=torch.float64))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(SOME, SOME)
@settings(max_examples=60, deadline=None)
def test_mann_whitney_is_that_of_scipy_ties_included(members: torch.Tensor, others: torch.Tensor) -> None:
    from scipy.stats import mannwhitneyu

    found = separation(members, others, 0.05)
    pairs = (members[:, None] > others).double() + 0.5 * (members[:, None] == others).double()
    assert found.auc == pytest.approx(float(pairs.mean()), abs=1e-12)
    if len(torch.unique(torch.cat([members, others]))) > 1:  # scipy divides by a spread of 0 otherwise
        expected = mannwhitneyu(members.numpy(), others.numpy(), alternative="greater", method="asymptotic")
        assert found.p_value == pytest.approx(float(expected.pvalue), abs=1e-12)
    else:
        assert found.p_value == 1


@given(SOME, SOME, st.sampled_from([0.01, 0.05, 0.2]))
@settings(max_examples=60, deadline=None)
def test_the_critical_area_is_where_the_p_value_crosses_the_level(
    members: torch.Tensor, others: torch.Tensor, alpha: float
) -> None:
    found = separation(members, others, alpha)
    if abs(found.auc - found.critical) > 1e-9 and found.critical < 1:
        assert (found.auc > found.critical) == (found.p_value < alpha) == (found.z > found.critical_z)


@given(SOME, SOME)
@settings(max_examples=40, deadline=None)
def test_kolmogorov_smirnov_is_that_of_scipy(members: torch.Tensor, others: torch.Tensor) -> None:
    from scipy.stats import ks_2samp

    found = separation(members, others, 0.05)
    expected = ks_2samp(others.numpy(), members.numpy(), alternative="greater", method="exact")
    assert found.ks == pytest.approx(float(expected.statistic), abs=1e-12)
    m, n = len(members), len(others)
    assert found.ks_p == pytest.approx(math.exp(-2 * found.ks**2 * m * n / (m + n)))


def test_kolmogorov_smirnov_is_close_to_the_exact_p_value_in_samples_of_hundreds() -> None:
    from scipy.stats import ks_2samp

    members, others = torch.randn(300, generator=rng()) + 0.15, torch.randn(400, generator=rng(1))
    exact = ks_2samp(others.numpy(), members.numpy(), alternative="greater", method="exact").pvalue
    assert 0.001 < exact < 0.5
    # the asymptotic form ignores terms of order 1/sqrt(mn/(m+n)) = 1/13 of the exponent's root; it is conservative
    assert exact <= separation(members, others, 0.05).ks_p <= 1.5 * exact


def test_the_level_is_kept_and_the_null_variance_is_that_of_shuffled_groups() -> None:
    scores = torch.randn(90, generator=rng()).round(decimals=1).double()  # with ties
    areas, rejected = [], 0
    order = rng(1)
    for _ in range(1000):
        mixed = scores[torch.randperm(90, generator=order)]
        found = separation(mixed[:30], mixed[30:], 0.05)
        areas.append(found.auc)
        rejected += found.p_value < 0.05
    # 4 standard errors: of a rate of 1000, and sqrt(2/1000) = 4.5% of a variance
    assert abs(rejected / 1000 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 1000)
    assert np.var(areas) == pytest.approx(null_variance(scores, 30, 60), rel=4 * 0.045)
    low, high = found.null_interval(0.1)
    inside = np.mean([low <= area <= high for area in areas])
    assert abs(inside - 0.9) < 4 * math.sqrt(0.1 * 0.9 / 1000)
    assert low + high == pytest.approx(1)


def test_the_interval_of_the_area_covers_and_the_rates_are_counted() -> None:
    draw, covered = rng(), 0
    true = 0.5 * (1 + math.erf(0.8 / 2))  # P(a + 0.8 > b) of unit normals
    for _ in range(300):
        found = separation(torch.randn(60, generator=draw) + 0.8, torch.randn(80, generator=draw), 0.05)
        covered += found.low <= true <= found.high
        assert found.low <= found.auc <= found.high
    assert covered / 300 > 0.95 - 4 * math.sqrt(0.05 * 0.95 / 300)
    members, others = torch.tensor([0.5, 1.5, 98.5, 99.5, 100.5]), torch.arange(100.0)
    found = separation(members, others, 0.05)
    assert (found.tpr_at_1, found.tpr_at_01) == (0.6, 0.4)
    assert set(found.as_dict()) >= {"auc", "low", "high", "p_value", "ks"}


def test_perfect_separation_is_seen_and_no_score_at_all_is_no_evidence() -> None:
    high, low = torch.arange(20.0) + 100, torch.arange(30.0)
    found = separation(high, low, 0.05)
    assert (found.auc, found.ks, found.tpr_at_01) == (1, 1, 1)
    assert found.p_value < 1e-8
    assert found.low < 1  # of 20 records one cannot be sure of the last
    same = separation(torch.ones(20), torch.ones(30), 0.05)
    assert (same.auc, same.p_value, same.ks, same.ks_p) == (0.5, 1.0, 0.0, 1.0)
    assert same.auc <= same.critical
    with pytest.raises(ValueError, match="NaN"):
        separation(torch.tensor([0.0, math.nan]), low, 0.05)


def test_log_odds_of_probabilities_are_the_margins_of_logits() -> None:
    logits = 6 * torch.randn(3, 50, 5, dtype=torch.float64, generator=rng())
    y = torch.randint(5, (50,), generator=rng(1))
    torch.testing.assert_close(log_odds(logits.softmax(-1), y), margins(logits, y))
    single = log_odds(logits.float().softmax(-1), y)  # what a service answers
    # p_y has a relative error of about 1e-7, and so has the sum of the others: both errors are absolute in phi
    torch.testing.assert_close(single, margins(logits, y), atol=1e-5, rtol=0)
    sure = log_odds(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    assert sure.isfinite().all()
    assert sure.tolist() == pytest.approx([69.08, -69.08], abs=0.01)


@pytest.mark.parametrize("pooled", [True, False])
def test_lira_is_the_log_ratio_of_two_fitted_normals(pooled: bool) -> None:
    shadows, included = torch.randn(9, 7, dtype=torch.float64, generator=rng()), torch.zeros(9, 7, dtype=torch.bool)
    included[:4] = True
    included = included[torch.rand(9, 7, generator=rng(1)).argsort(0), torch.arange(7)]
    observed = torch.randn(7, dtype=torch.float64, generator=rng(2))
    columns = [[shadows[included[:, i] == side, i] for i in range(7)] for side in (True, False)]
    common = [
        torch.cat([c - c.mean() for c in side]).square().sum() / sum(len(c) - 1 for c in side) for side in columns
    ]
    expected = []
    for i in range(7):
        spreads = [(common[s] if pooled else columns[s][i].var()).sqrt() for s in (0, 1)]
        inside, outside = (torch.distributions.Normal(columns[s][i].mean(), spreads[s]) for s in (0, 1))
        expected.append(inside.log_prob(observed[i]) - outside.log_prob(observed[i]))
    torch.testing.assert_close(lira_score(observed, shadows, included, pooled), torch.stack(expected))


def test_lira_tends_to_the_likelihood_ratio_of_the_true_normals() -> None:
    """In N(1, 1), out N(-1, 1): Lambda = 2 phi, of which the error of 2000 shadow models is about 2/sqrt(1000)."""
    included = torch.arange(2000)[:, None].expand(2000, 40) % 2 == 0
    shadows = torch.randn(2000, 40, generator=rng()) + torch.where(included, 1.0, -1.0)
    observed = torch.linspace(-2, 2, 40)
    assert (lira_score(observed, shadows, included) - 2 * observed.double()).abs().max() < 5 * 2 / math.sqrt(1000) * 2


def test_lira_of_shadows_that_agree_is_finite_and_too_few_are_refused() -> None:
    included = torch.tensor([[True], [True], [False], [False]])
    agree = torch.tensor([[3.0], [3.0], [1.0], [1.0]])
    # both variances are 1e-4: Lambda = (1.5^2 - 0.5^2) / 2e-4
    assert float(lira_score(torch.tensor([2.5]), agree, included)) == pytest.approx(1e4)
    for few in (included[1:], included[:3]):
        with pytest.raises(ValueError, match="at least two"):
            lira_score(torch.tensor([2.5]), agree[: len(few)], few)


def test_ema_metrics_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], dtype=torch.float64)
    correct, own, certainty = ema_metrics(p, torch.tensor([1, 1])).tolist()
    assert correct == [0, 1]
    assert own == [0.25, 1]
    assert certainty == pytest.approx([0.5 * math.log(0.5) + 0.5 * math.log(0.25), 0])


@given(SOME, SOME)
@settings(max_examples=60, deadline=None)
def test_ema_thresholds_are_the_best_of_all(members: torch.Tensor, others: torch.Tensor) -> None:
    def gained(v: float) -> float:
        return float((members >= v).double().mean() + (others < v).double().mean()) / 2

    labels = torch.zeros(len(members), dtype=torch.long), torch.zeros(len(others), dtype=torch.long)
    found = float(ema_thresholds(members[None], labels[0], others[None], labels[1], 1))
    values = [*members.tolist(), *others.tolist()]
    best = max(map(gained, values))
    assert gained(found) == pytest.approx(best, abs=1e-12)
    assert found == max(v for v in values if gained(v) > best - 1e-9)


def test_ema_thresholds_are_per_class_and_a_missing_class_takes_the_common_one() -> None:
    members, others = torch.tensor([[5.0, 6.0, 1.0, 2.0]]).double(), torch.tensor([[3.0, 4.0, -1.0, 0.0]]).double()
    y = torch.tensor([0, 0, 1, 1])
    found = ema_thresholds(members, y, others, y, 3)
    assert found[0, :2].tolist() == [5, 1]
    assert found[0, 2] == ema_thresholds(members, y * 0, others, y * 0, 1)[0, 0]
    queries = torch.tensor([[4.5, 4.5, 1.0]]).double()
    assert ema_members(queries, torch.tensor([0, 1, 1]), found).tolist() == [False, True, True]


def test_one_metric_at_its_threshold_is_enough_for_a_member() -> None:
    thresholds = torch.tensor([[1.0], [0.5]]).double()
    metrics = torch.tensor([[1.0, 0.0, 0.0], [0.1, 0.5, 0.4]]).double()
    assert ema_members(metrics, torch.zeros(3, dtype=torch.long), thresholds).tolist() == [True, True, False]


@pytest.mark.parametrize("n", [2, 50, 500])
def test_rho_is_the_t_test_of_scipy(n: int) -> None:
    from scipy.stats import ttest_ind

    for missing in {1, 2, 3, 7, n // 2, n - 1} & set(range(1, n)):
        members = torch.arange(n) >= missing
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a group without spread, which is what there is
            expected = ttest_ind(members.double().numpy(), np.ones(n)).pvalue
        assert ema_rho(members) == pytest.approx(float(expected), rel=1e-9)


def test_rho_is_one_where_all_are_members_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ema_rho(torch.ones(500, dtype=torch.bool)) == 1
        assert ema_rho(torch.zeros(500, dtype=torch.bool)) == 0
    with pytest.raises(ValueError, match="two records"):
        ema_rho(torch.ones(1, dtype=torch.bool))


def test_rho_falls_below_a_tenth_with_the_third_record_whatever_their_number() -> None:
    for n in (50, 500, 50_000):
        two, three = (ema_rho(torch.arange(n) >= missing) for missing in (2, 3))
        assert three < 0.1 < two


def test_arguments_and_areas_stay_as_they_are() -> None:
    members, others = torch.randn(20, generator=rng()), torch.randn(30, generator=rng(1))
    copies = members.clone(), others.clone()
    found = separation(members, others, 0.05)
    assert torch.equal(members, copies[0])
    assert torch.equal(others, copies[1])
    assert found.auc == auroc(torch.cat([members, others]), torch.arange(50) < 20).value
