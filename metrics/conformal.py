"""Split conformal prediction with the score s = 1 - p_y."""

from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

from metrics.measurement import Measurement, checked_labels, checked_probabilities, checked_values


def scores(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Per-example conformal score 1 - p_y: (n, K), (n,) -> (n,) float64. High means strange."""
    p = checked_probabilities(probabilities)
    y = checked_labels(labels, *p.shape)
    return 1.0 - p.gather(1, y[:, None])[:, 0]


def rank(n: int, alpha: float | str | Fraction) -> int:
    """k = ceil((n+1)(1-alpha)), in exact rational arithmetic on the decimal that `alpha` prints as.

    Floating point gives 56 instead of 55 for n = 99, alpha = 0.45. k > n means that no order statistic suffices.
    Raises ValueError unless 0 < alpha < 1 and n >= 1.
    """
    exact = Fraction(str(alpha))
    if not 0 < exact < 1 or n < 1:
        raise ValueError(f"A conformal rank needs 0 < alpha < 1 and n >= 1, not alpha = {alpha} and n = {n}.")
    return ceil((n + 1) * (1 - exact))


def quantile(calibration: Tensor, alpha: float | str | Fraction) -> float:
    """The k-th smallest of the n calibration scores (n,), k = `rank(n, alpha)`: the order statistic, no interpolation.

    Infinite if k > n (too few calibration points for this alpha: every set is then full). For exchangeable points the
    coverage is at least 1 - alpha and, without ties, at most 1 - alpha + 1/(n+1).
    """
    s = checked_values(calibration, "Calibration scores")
    k = rank(len(s), alpha)
    return float("inf") if k > len(s) else float(s.sort().values[k - 1])


def prediction_sets(probabilities: Tensor, threshold: float) -> Tensor:
    """The classes whose score 1 - p_k is at most `threshold` (a `quantile`): (n, K) -> bool (n, K)."""
    return 1.0 - checked_probabilities(probabilities) <= threshold


def _checked_sets(sets: Tensor) -> Tensor:
    if sets.ndim != 2 or sets.shape[0] == 0 or sets.dtype != torch.bool:
        raise ValueError(f"Prediction sets are bool (n, K), not {sets.dtype} of shape {tuple(sets.shape)}.")
    return sets.detach().cpu()


def coverage(sets: Tensor, labels: Tensor, alpha: float | None = None) -> Measurement:
    """Share of examples whose set holds the label, in [0, 1]; `sets` bool (n, K), `labels` (n,).

    `alpha`, if given, is recorded with the coverage 1 - alpha that it promises for exchangeable points.
    """
    held = _checked_sets(sets)
    y = checked_labels(labels, *held.shape)
    settings: dict[str, object] = {"score": "1 - p_y", "scale": "fraction"}
    if alpha is not None:
        settings |= {"alpha": alpha, "promised": float(1 - Fraction(str(alpha)))}
    return Measurement(float(held.gather(1, y[:, None]).double().mean()), len(y), settings)


def empty_share(sets: Tensor, alpha: float | None = None) -> Measurement:
    """Share of examples with an empty set, in [0, 1]; `sets` bool (n, K).

    A set is empty where no class reaches the threshold: the example is unlike all that was calibrated on, and its small
    set is no certainty. `alpha`, if given, is recorded.
    """
    size = _checked_sets(sets).sum(1)
    settings: dict[str, object] = {"score": "1 - p_y", "scale": "fraction"}
    if alpha is not None:
        settings["alpha"] = alpha
    return Measurement(float((size == 0).double().mean()), len(size), settings)


def mean_set_size(sets: Tensor, alpha: float | None = None) -> Measurement:
    """Mean number of classes in a set, in [0, K]; `sets` bool (n, K). The settings give the share of empty sets."""
    size = _checked_sets(sets).sum(1).double()
    empty = float((size == 0).double().mean())
    settings: dict[str, object] = {"score": "1 - p_y", "classes": sets.shape[1], "empty": empty}
    if alpha is not None:
        settings["alpha"] = alpha
    return Measurement(float(size.mean()), len(size), settings)
