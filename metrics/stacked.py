"""The metrics of many models on the same examples at once: a model after the other takes ten times as long."""

from fractions import Fraction

import torch
from torch import Tensor

from metrics.conformal import rank
from metrics.measurement import checked_labels, checked_probabilities

NUMBERS = 2**20  # probabilities that are treated at once: in float64, and a few times that


def stacked(
    probabilities: Tensor, labels: Tensor, calibration: Tensor, calibration_labels: Tensor,
    alpha: float | str | Fraction, bins: int = 15,
) -> dict[str, list[float]]:  # fmt: skip
    """What `accuracy`, `ece`, `adaptive_ece`, `brier`, `nll`, `auroc_of_confidence`, `coverage`, `empty_share` and
    `mean_set_size` give for each of m models, by the names they have in a record.

    `probabilities` (m, n, K) with `labels` (n,); the conformal sets of a model are calibrated with its probabilities
    `calibration` (m, c, K) of examples with the labels `calibration_labels` (c,). Nothing of one model is added to
    another's.
    """
    m, n, classes = probabilities.shape
    y = checked_labels(labels, n, classes)
    own = checked_labels(calibration_labels, calibration.shape[1], classes)
    size = max(1, NUMBERS // (n * classes))
    found: dict[str, list[float]] = {}
    for first in range(0, m, size):
        rows = slice(first, first + size)
        p, q = _checked(probabilities[rows]), _checked(calibration[rows])
        for name, values in (_scored(p, y, bins) | _conformal(p, y, q, own, alpha)).items():
            found.setdefault(name, []).extend(values.tolist())
    return found


def _checked(probabilities: Tensor) -> Tensor:
    return checked_probabilities(probabilities.flatten(0, 1)).view(probabilities.shape)


def _scored(p: Tensor, y: Tensor, bins: int) -> dict[str, Tensor]:
    """Metrics (m,) that need no calibration."""
    m, n, classes = p.shape
    top, right = p.amax(-1), (p.argmax(-1) == y).double()
    edges = torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64)
    whole, rest = divmod(n, bins)
    masses = torch.repeat_interleave(torch.arange(bins), whole + (torch.arange(bins) < rest).long())
    order = torch.argsort(top, stable=True)
    return {
        "accuracy": right.mean(1),
        "ece": _binned_gap(right - top, torch.bucketize(top, edges[1:-1]), bins),
        "adaptive_ece": _binned_gap((right - top).gather(1, order), masses.expand(m, n), bins),
        "brier": (p - torch.nn.functional.one_hot(y, classes)).square().sum(2).mean(1),
        "nll": (-p.gather(2, y.expand(m, n)[..., None]).log()).flatten(1).mean(1),
        "auroc_of_confidence": _auroc(top, right),
    }


def _binned_gap(gaps: Tensor, index: Tensor, bins: int) -> Tensor:
    sums = torch.zeros(len(gaps), bins, dtype=torch.float64).scatter_add_(1, index, gaps)
    return sums.abs().sum(1) / gaps.shape[1]


def _auroc(top: Tensor, right: Tensor) -> Tensor:
    """From the sum of midranks of those that are right; NaN (0/0) where all are, or none."""
    ordered = top.sort(dim=1).values
    below, up_to = (torch.searchsorted(ordered, top, right=side) for side in (False, True))
    count = right.sum(1)
    ranks = ((below + up_to + 1).double() / 2 * right).sum(1)
    return (ranks - count * (count + 1) / 2) / (count * (right.shape[1] - count))


def _conformal(
    p: Tensor, y: Tensor, calibration: Tensor, own: Tensor, alpha: float | str | Fraction
) -> dict[str, Tensor]:
    m, n, _ = p.shape
    c = calibration.shape[1]
    strange = 1.0 - calibration.gather(2, own.expand(m, c)[..., None])[..., 0]
    k = rank(c, alpha)
    threshold = strange.sort(dim=1).values[:, k - 1] if k <= c else strange.new_full((m,), float("inf"))
    sets = 1.0 - p <= threshold[:, None, None]
    size = sets.sum(2)
    return {
        "conformal_coverage": sets.gather(2, y.expand(m, n)[..., None]).double().flatten(1).mean(1),
        "conformal_empty": (size == 0).double().mean(1),
        "conformal_set_size": size.double().mean(1),
    }
