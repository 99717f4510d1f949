import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.detection import (
    auroc,
    calibrated_threshold,
    robust_threshold,
    roc_curve,
    tpr_at_fpr,
)


@st.composite
def scored(draw):
    values = draw(st.lists(st.integers(-4, 4), min_size=2, max_size=40))
    flags = draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    flags[0], flags[1] = True, False
    return torch.tensor(values, dtype=torch.float64), torch.tensor(flags)


@given(scored())
@settings(max_examples=60, deadline=None)
def test_auroc_equals_all_pairs_and_sklearn(case):
    from sklearn.metrics import roc_auc_score

    s, malicious = case
    pairs = [float(a > b) + 0.5 * float(a == b) for a in s[malicious] for b in s[~malicious]]
    result = auroc(s, malicious)
    assert result.value == pytest.approx(np.mean(pairs), abs=1e-12)
    assert result.value == pytest.approx(roc_auc_score(malicious.numpy(), s.numpy()), abs=1e-12)
    assert auroc(-s, malicious).value == pytest.approx(1 - result.value, abs=1e-12)
    assert result.floor == 0.5


def test_the_standard_error_matches_the_spread_over_samples():
    generator = torch.Generator().manual_seed(0)
    malicious = torch.arange(100) < 30
    results = [auroc(torch.randn(100, generator=generator) + malicious.double(), malicious) for _ in range(400)]
    spread = np.std([r.value for r in results])
    assert np.mean([r.settings["standard_error"] for r in results]) == pytest.approx(spread, rel=0.1)
    assert np.mean([r.value for r in results]) == pytest.approx(0.7602, abs=0.01)  # Phi(1 / sqrt 2)


def test_one_malicious_request_has_no_standard_error():
    assert math.isnan(
        auroc(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([True, False, False])).settings["standard_error"]
    )


@given(scored(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_tpr_at_fpr_is_the_best_over_all_thresholds(case, percent):
    s, malicious = case
    level = percent / 100
    good, bad = s[~malicious], s[malicious]
    allowed = [t for t in [-math.inf, *s.tolist()] if 100 * int((good > t).sum()) <= percent * len(good)]
    best = max(float((bad > t).double().mean()) for t in allowed)
    result = tpr_at_fpr(s, malicious, level)
    assert result.value == pytest.approx(best, abs=1e-15)
    assert result.floor == result.settings["attained_fpr"] <= level + 1e-15
    assert (result.settings["malicious"], result.settings["benign"]) == (len(bad), len(good))
    assert result.settings["low"] <= result.value <= result.settings["high"]


def test_the_level_is_read_as_a_decimal():
    good, bad = torch.arange(100.0), torch.tensor([70.5])
    s, malicious = torch.cat([good, bad]), torch.arange(101) == 100
    assert 0.29 * 100 < 29  # the trap: 28.999999999999996
    assert tpr_at_fpr(s, malicious, 0.29).value == 1.0
    assert tpr_at_fpr(s, malicious, 0.28).value == 0.0


@given(scored())
@settings(max_examples=40, deadline=None)
def test_roc_curve_equals_sklearn(case):
    from sklearn.metrics import roc_curve as reference

    s, malicious = case
    ours = roc_curve(s, malicious)
    false_positive, true_positive, _ = reference(malicious.numpy(), s.numpy(), drop_intermediate=False)
    np.testing.assert_allclose(ours.false_positive.numpy(), false_positive, atol=1e-12)
    np.testing.assert_allclose(ours.true_positive.numpy(), true_positive, atol=1e-12)
    assert float(torch.trapezoid(ours.true_positive, ours.false_positive)) == pytest.approx(auroc(s, malicious).value)
    for t, rate in zip(ours.thresholds, ours.true_positive, strict=True):
        assert float((s[malicious] > t).double().mean()) == pytest.approx(float(rate), abs=1e-12)


def test_the_robust_threshold_by_hand_and_its_second_scale():
    benign = torch.tensor([1.0, 2.0, 3.0, 4.0])  # median 2.5, which lies between two scores, and MAD 1
    assert robust_threshold(benign, 3.5) == pytest.approx(2.5 + 3.5 * 1.4826)
    outlier = torch.tensor([0.0, 0.0, 0.0, 0.0, 5.0])  # MAD 0, mean absolute deviation 1
    assert robust_threshold(outlier, 2.0) == pytest.approx(2 * 1.2533)
    with pytest.raises(ValueError, match="no scale"):
        robust_threshold(torch.ones(5), 3.5)


def test_the_robust_threshold_of_normal_scores_is_in_standard_deviations():
    scores = 3 + 2 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    assert robust_threshold(scores, 2.0) == pytest.approx(3 + 2 * 2, abs=0.1)


def test_the_calibrated_threshold_keeps_its_promise():
    assert calibrated_threshold(torch.arange(1.0, 100.0), 0.45) == 55.0
    assert calibrated_threshold(torch.arange(5.0), 0.1) == math.inf
    generator = torch.Generator().manual_seed(0)
    rates = []
    for _ in range(300):
        benign = torch.randn(400, generator=generator)
        flagged = benign[200:] > calibrated_threshold(benign[:200], 0.05)
        rates.append(float(flagged.double().mean()))
    error = np.std(rates) / math.sqrt(300)
    assert 0.05 - 1 / 201 - 3 * error <= np.mean(rates) <= 0.05 + 3 * error


def test_a_single_kind_and_nan_scores_are_refused():
    with pytest.raises(ValueError, match="at least one malicious and one benign"):
        auroc(torch.tensor([1.0, 2.0]), torch.tensor([True, True]))
    with pytest.raises(ValueError, match="NaN"):
        roc_curve(torch.tensor([1.0, float("nan")]), torch.tensor([True, False]))
