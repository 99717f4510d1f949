"""Confidence, entropy and calibration of predicted probabilities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.detection import placements
from metrics.measurement import Measurement, checked_labels, checked_probabilities


def confidence(probabilities: Tensor) -> Tensor:
    """Per-example probability of the most probable class: (..., K) -> (...)."""
    return probabilities.amax(-1)


def entropy(probabilities: Tensor) -> Tensor:
    """Per-example entropy -sum_k p_k ln p_k in nats, with 0 ln 0 = 0: (..., K) -> (...)."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(-1)


def mean_confidence(probabilities: Tensor) -> Measurement:
    """Mean top-1 probability over (n, K), in [1/K, 1]."""
    p = checked_probabilities(probabilities)
    return Measurement(float(confidence(p).mean()), len(p), {"scale": "probability", "classes": p.shape[1]})


def mean_entropy(probabilities: Tensor) -> Measurement:
    """Mean entropy over (n, K) in nats, in [0, ln K]."""
    p = checked_probabilities(probabilities)
    return Measurement(float(entropy(p).mean()), len(p), {"scale": "nats", "classes": p.shape[1]})


def _judged(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Top-1 confidence (n,) and whether the top-1 class is the label (n,), both float64."""
    p = checked_probabilities(probabilities)
    y = checked_labels(labels, *p.shape)
    return confidence(p), (p.argmax(1) == y).double()


def _edges(bins: int) -> Tensor:
    if bins < 1:
        raise ValueError(f"Calibration error needs at least one bin, not {bins}.")
    return torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64)


def _equal_width(top: Tensor, bins: int) -> Tensor:
    """The bin of each confidence, bins (lo, hi] on (0, 1]; confidence 1 is in the last one."""
    return torch.bucketize(top, _edges(bins)[1:-1])


def _binned_gap(top: Tensor, correct: Tensor, index: Tensor, bins: int) -> float:
    """sum_b (n_b / n) |acc_b - conf_b|, which is sum_b |sum of (correct - confidence) in b| / n."""
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, correct - top)
    return float(sums.abs().sum() / len(top))


def ece(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Measurement:
    """Expected calibration error: sum_b (n_b/n) |acc_b - conf_b| over equal-width bins of top-1 confidence on (0, 1].

    `probabilities` (n, K), `labels` (n,). In [0, 1]. A perfectly calibrated model does not score 0 with finite n: see
    `ece_floor`, which needs randomness and is therefore a call of its own (`floor` stays None here).
    """
    top, correct = _judged(probabilities, labels)
    value = _binned_gap(top, correct, _equal_width(top, bins), bins)
    return Measurement(value, len(top), {"bins": bins, "binning": "equal width", "direction": "lower is better"})


def adaptive_ece(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Measurement:
    """Calibration error as `ece`, over equal-mass bins of the confidences in stable ascending order.

    Sizes are those of numpy.array_split (the first n mod bins bins hold one more); equal confidences may be split, so
    among ties the value depends on the order of the examples.
    """
    top, correct = _judged(probabilities, labels)
    _edges(bins)
    order = torch.argsort(top, stable=True)
    whole, rest = divmod(len(top), bins)
    index = torch.repeat_interleave(torch.arange(bins), whole + (torch.arange(bins) < rest).long())
    value = _binned_gap(top[order], correct[order], index, bins)
    return Measurement(value, len(top), {"bins": bins, "binning": "equal mass", "direction": "lower is better"})


def ece_floor(probabilities: Tensor, generator: torch.Generator, repetitions: int = 200, bins: int = 15) -> Measurement:
    """The `ece` of a perfectly calibrated model with these probabilities (n, K): mean over `repetitions` draws.

    Labels are drawn from the probabilities themselves; only whether the top-1 class is drawn matters, which happens
    with the top-1 probability. The 95th percentile of the draws stands in the settings. Only `generator` is advanced.
    """
    if repetitions < 1:
        raise ValueError(f"The floor needs at least one repetition, not {repetitions}.")
    top = confidence(checked_probabilities(probabilities))
    index, n = _equal_width(top, bins), len(top)
    member = torch.nn.functional.one_hot(index, bins).double()
    draws = []
    block = max(1, 5_000_000 // n)  # bounds the memory of the (repetitions, n) table of draws
    for start in range(0, repetitions, block):
        uniform = torch.rand(min(block, repetitions - start), n, generator=generator, dtype=torch.float64)
        draws.append((((uniform < top).double() - top) @ member).abs().sum(1) / n)
    values = torch.cat(draws)
    settings = {"bins": bins, "binning": "equal width", "repetitions": repetitions, "p95": float(values.quantile(0.95))}
    return Measurement(float(values.mean()), n, settings)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: `edges` (bins+1,), and per bin accuracy, mean confidence (NaN if empty) and count."""

    edges: Tensor
    accuracy: Tensor
    confidence: Tensor
    count: Tensor


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """Accuracy and mean confidence in each equal-width bin of top-1 confidence; bins as in `ece`."""
    top, correct = _judged(probabilities, labels)
    index = _equal_width(top, bins)
    count = torch.bincount(index, minlength=bins)
    zero = torch.zeros(bins, dtype=torch.float64)
    return Reliability(
        _edges(bins), zero.index_add(0, index, correct) / count, zero.index_add(0, index, top) / count, count
    )


def brier(probabilities: Tensor, labels: Tensor) -> Measurement:
    """Multi-class Brier score mean sum_k (p_k - 1[k = y])^2, not halved, in [0, 2]; 1 - 1/K for uniform predictions."""
    p = checked_probabilities(probabilities)
    y = checked_labels(labels, *p.shape)
    value = float((p - torch.nn.functional.one_hot(y, p.shape[1])).square().sum(1).mean())
    return Measurement(value, len(y), {"scale": "sum over classes, [0, 2]", "direction": "lower is better"})


def nll(probabilities: Tensor, labels: Tensor) -> Measurement:
    """Negative log-likelihood mean -ln p_y in nats; infinite where a true label has probability 0, and not clipped."""
    p = checked_probabilities(probabilities)
    y = checked_labels(labels, *p.shape)
    value = float(-p.gather(1, y[:, None]).log().mean())
    return Measurement(value, len(y), {"scale": "nats", "clipping": "none", "direction": "lower is better"})


def auroc_of_confidence(probabilities: Tensor, labels: Tensor) -> Measurement:
    """AUROC of "confidence predicts correctness": P(conf right > conf wrong) + P(equal) / 2. Chance is 0.5 (`floor`).

    A model that is right (or wrong) everywhere is a legitimate outcome for which the area does not exist: the value is
    then NaN and `settings["undefined"]` says why.
    """
    top, correct = _judged(probabilities, labels)
    right, wrong = top[correct == 1], top[correct == 0]
    settings: dict[str, object] = {"right": len(right), "wrong": len(wrong), "ties": "1/2"}
    if len(right) == 0 or len(wrong) == 0:
        settings["undefined"] = "every prediction is right" if len(wrong) == 0 else "every prediction is wrong"
        return Measurement(float("nan"), len(top), settings, 0.5)
    return Measurement(float(placements(right, wrong).mean()), len(top), settings, 0.5)
