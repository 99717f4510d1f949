"""Claim: a metric changes neither its arguments nor any global random state, and says what it measured."""

import math

import numpy as np
import pytest
import torch

from metrics import classification, conformal, detection, intervals, uncertainty
from metrics.measurement import Measurement

G = torch.Generator().manual_seed(0)
P = torch.randn(40, 3, generator=G).softmax(1).requires_grad_()
Y = torch.randint(3, (40,), generator=G)
S = torch.randn(40, generator=G)
BAD = torch.arange(40) < 12
SETS = P.detach() > 0.3

CALLS = {
    "accuracy": (classification.accuracy, (P, Y)),
    "error": (classification.error, (P, Y)),
    "mean_confidence": (uncertainty.mean_confidence, (P,)),
    "mean_entropy": (uncertainty.mean_entropy, (P,)),
    "ece": (uncertainty.ece, (P, Y)),
    "adaptive_ece": (uncertainty.adaptive_ece, (P, Y)),
    "brier": (uncertainty.brier, (P, Y)),
    "nll": (uncertainty.nll, (P, Y)),
    "auroc_of_confidence": (uncertainty.auroc_of_confidence, (P, Y)),
    "coverage": (conformal.coverage, (SETS, Y)),
    "mean_set_size": (conformal.mean_set_size, (SETS,)),
    "auroc": (detection.auroc, (S, BAD)),
    "tpr_at_fpr": (detection.tpr_at_fpr, (S, BAD, 0.05)),
}
NOT_MEASUREMENTS = {
    "reliability": (uncertainty.reliability, (P, Y)),
    "robust_threshold": (detection.robust_threshold, (S, 3.5)),
    "roc_curve": (detection.roc_curve, (S, BAD)),
    "quantile": (conformal.quantile, (S, 0.1)),
    "prediction_sets": (conformal.prediction_sets, (P, 0.7)),
    "mean_interval": (intervals.mean_interval, (S,)),
    "ece_floor": (uncertainty.ece_floor, (P, torch.Generator().manual_seed(1))),
}


def unchanged_by(function, arguments):
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    copies = [t.detach().clone() for t in tensors]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    result = function(*arguments)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert all(torch.equal(t.detach(), c) for t, c in zip(tensors, copies, strict=True))
    assert P.grad is None
    return result


@pytest.mark.parametrize("name", CALLS)
def test_a_measurement_is_pure_repeatable_and_complete(name):
    first, second = unchanged_by(*CALLS[name]), unchanged_by(*CALLS[name])
    assert isinstance(first, Measurement)
    assert first == second
    assert math.isfinite(first.value)
    assert 0 < first.n <= 40
    assert first.settings


@pytest.mark.parametrize("name", NOT_MEASUREMENTS)
def test_the_other_functions_are_pure(name):
    assert unchanged_by(*NOT_MEASUREMENTS[name]) is not None


def test_a_permutation_of_the_examples_changes_nothing():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    for name, (function, arguments) in CALLS.items():
        moved = [a[order] if isinstance(a, torch.Tensor) else a for a in arguments]
        assert function(*moved).value == pytest.approx(function(*arguments).value, abs=1e-12), name
