"""How well a score tells malicious requests from benign ones. A request is flagged iff its score > threshold."""

from dataclasses import dataclass
from fractions import Fraction
from math import floor

import torch
from torch import Tensor

from metrics.conformal import quantile
from metrics.intervals import rate_interval
from metrics.measurement import Measurement, checked_values


def placements(high: Tensor, low: Tensor) -> Tensor:
    """For each of `high` (m,), the share of `low` (n,) below it, ties counted 1/2: (m,); the mean is the AUROC."""
    ordered = low.sort().values
    below = torch.searchsorted(ordered, high.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, high.contiguous(), right=True)
    return (below + up_to).double() / (2 * len(low))


def _split(scores: Tensor, malicious: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the malicious and of the benign requests; ValueError unless there are both."""
    s = checked_values(scores, "Scores")
    if malicious.shape != s.shape or malicious.dtype != torch.bool:
        raise ValueError(f"`malicious` is bool {(len(s),)}, not {malicious.dtype} of shape {tuple(malicious.shape)}.")
    bad = malicious.detach().cpu()
    if bad.all() or not bad.any():
        raise ValueError("Detection needs at least one malicious and one benign request.")
    return s[bad], s[~bad]


def auroc(scores: Tensor, malicious: Tensor) -> Measurement:
    """Area under the ROC curve: P(malicious score > benign score) + P(equal) / 2; chance 0.5 is the floor.

    `scores` (n,), `malicious` bool (n,). The settings hold DeLong's standard error sqrt(var(V10)/m + var(V01)/n) (NaN
    with a single request on a side; 0 at perfect separation, where it understates). ValueError without both kinds.
    """
    bad, good = _split(scores, malicious)
    caught, passed = placements(bad, good), 1.0 - placements(good, bad)
    enough = len(bad) > 1 and len(good) > 1
    error = float((caught.var() / len(bad) + passed.var() / len(good)).sqrt()) if enough else float("nan")
    settings = {"malicious": len(bad), "benign": len(good), "standard_error": error, "error": "DeLong", "ties": "1/2"}
    return Measurement(float(caught.mean()), len(bad) + len(good), settings, 0.5)


def tpr_at_fpr(scores: Tensor, malicious: Tensor, level: float) -> Measurement:
    """True-positive rate of the largest flagged set {score > threshold} whose empirical false-positive rate <= `level`.

    The attained point, without interpolation: the settings give its threshold and its rate, which is also the floor
    (what a chance detector would catch). `level` in [0, 1), read as the decimal that it prints as. Under 1/benign it
    allows no false positive at all: at least 1000 benign scores are wanted for 1%.
    """
    bad, good = _split(scores, malicious)
    exact = Fraction(str(level))
    if not 0 <= exact < 1:
        raise ValueError(f"A false-positive level lies in [0, 1), not {level}.")
    allowed = floor(exact * len(good))
    threshold = good.sort(descending=True).values[allowed]  # a lower threshold would flag this benign request as well
    settings: dict[str, object] = {"level": level, "attained_fpr": float((good > threshold).double().mean())}
    caught = int((bad > threshold).sum())
    interval = rate_interval(caught, len(bad))
    settings |= {"threshold": float(threshold), "malicious": len(bad), "benign": len(good), "low": interval.low}
    settings |= {"high": interval.high, "interval": interval.method}
    return Measurement(interval.mean, len(bad) + len(good), settings, float((good > threshold).double().mean()))


@dataclass(frozen=True)
class Roc:
    """A ROC curve from (0, 0) to (1, 1): the two rates at each of the descending `thresholds`, all (t,)."""

    false_positive: Tensor
    true_positive: Tensor
    thresholds: Tensor


def roc_curve(scores: Tensor, malicious: Tensor) -> Roc:
    """All attainable (false-positive, true-positive) pairs of the rule score > threshold, one per distinct score."""
    bad, good = _split(scores, malicious)
    distinct = torch.unique(torch.cat([bad, good])).flip(0)
    thresholds = torch.cat([distinct, torch.tensor([float("-inf")], dtype=torch.float64)])

    def flagged(s: Tensor) -> Tensor:
        return 1.0 - torch.searchsorted(s.sort().values, thresholds, right=True).double() / len(s)

    return Roc(flagged(good), flagged(bad), thresholds)


def calibrated_threshold(benign_scores: Tensor, alpha: float | str | Fraction) -> float:
    """The ceil((n+1)(1-alpha))-th smallest of n benign scores, without interpolation.

    Flagging above it rejects an exchangeable benign request with probability at most alpha. Infinite (nothing is
    flagged) if n is too small for alpha.
    """
    return quantile(benign_scores, alpha)


def robust_threshold(benign_scores: Tensor, z: float) -> float:
    """median + z scale of n benign scores, of which outliers move neither: `z` robust standard deviations above it.

    scale = 1.4826 MAD, or 1.2533 x the mean absolute deviation around the median if the MAD is 0; both are the standard
    deviation of normal scores. Raises ValueError if both are 0 (all scores are equal). Convention: z = 3.5.
    """
    scores = benign_scores.double()
    median = scores.quantile(0.5)
    deviation = (scores - median).abs()
    spread = 1.4826 * deviation.quantile(0.5)
    scale = spread if spread > 0 else 1.2533 * deviation.mean()
    if scale == 0:
        raise ValueError("All benign scores are equal, so they give no scale.")
    return float(median + z * scale)
