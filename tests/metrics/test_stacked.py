"""Metrics of many models at once are those of each model alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import metrics.stacked
from metrics.classification import accuracy
from metrics.conformal import coverage, empty_share, mean_set_size, prediction_sets, quantile, scores
from metrics.stacked import stacked
from metrics.uncertainty import adaptive_ece, auroc_of_confidence, brier, ece, nll


def alone(p: torch.Tensor, y: torch.Tensor, calibration: torch.Tensor, own: torch.Tensor, alpha: float) -> dict:
    sets = prediction_sets(p, quantile(scores(calibration, own), alpha))
    found = {
        "accuracy": accuracy(p, y), "ece": ece(p, y), "adaptive_ece": adaptive_ece(p, y), "brier": brier(p, y),
        "nll": nll(p, y), "auroc_of_confidence": auroc_of_confidence(p, y), "conformal_coverage": coverage(sets, y),
        "conformal_empty": empty_share(sets), "conformal_set_size": mean_set_size(sets),
    }  # fmt: skip
    return {name: each.value for name, each in found.items()}


def check(p: torch.Tensor, y: torch.Tensor, calibration: torch.Tensor, own: torch.Tensor, alpha: float) -> None:
    found = stacked(p, y, calibration, own, alpha)
    for j in range(len(p)):
        one = alone(p[j], y, calibration[j], own, alpha)
        mine = {name: values[j] for name, values in found.items()}
        assert mine == pytest.approx(one, rel=1e-12, abs=1e-13, nan_ok=True)
        assert list(found) == list(one)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 60), st.integers(1, 30), st.integers(1, 6),
       st.sampled_from([0.05, 0.1, 0.5]), st.booleans())  # fmt: skip
def test_each_model_gets_what_its_metrics_give(
    seed: int, m: int, n: int, c: int, classes: int, alpha: float, coarse: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(m, n + c, classes, generator=rng)
    p = (logits.round() if coarse else 3 * logits).softmax(2)  # coarse: many ties
    y = torch.randint(classes, (n + c,), generator=rng)
    check(p[:, :n], y[:n], p[:, n:], y[n:], alpha)


def test_models_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.randn(7, 30, 3, generator=torch.Generator().manual_seed(0)).softmax(2)
    y = torch.arange(30) % 3
    monkeypatch.setattr(metrics.stacked, "NUMBERS", 2 * 20 * 3)
    check(p[:, :20], y[:20], p[:, 20:], y[20:], 0.1)


def test_a_model_that_is_right_everywhere_has_no_area() -> None:
    p = torch.tensor([[[0.9, 0.1], [0.3, 0.7]], [[0.9, 0.1], [0.7, 0.3]]])
    found = stacked(p, torch.tensor([0, 1]), p, torch.tensor([0, 1]), 0.5)["auroc_of_confidence"]
    assert math.isnan(found[0])
    assert found[1] == 1


def test_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="are these logits"):
        stacked(torch.randn(2, 3, 4), torch.tensor([0, 1, 2]), torch.rand(2, 3, 4), torch.tensor([0, 1, 2]), 0.1)
