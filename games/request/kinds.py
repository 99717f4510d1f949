"""What kind of quantity a metric is, by its name: which interval is made for it, and between what its mean must lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from metrics.intervals import Interval, grouped_interval

# shares of something, rates and AUROCs: their intervals keep within [0, 1]
SHARES = (
    "kept", "success", "moved", "flipped", "accuracy", "auroc", "tpr_at", "caught", "benign_rejected",
    "benign_only_rejected", "harder_only_rejected", "conformal_coverage", "conformal_empty", "certified_",
    "disagreement",
)  # fmt: skip
YES_OR_NO = ("kept", "success")  # of every target
UNIT = ("confidence", "mean_confidence", "ece", "adaptive_ece", "prediction_distance")  # numbers in [0, 1]
NEVER_NEGATIVE = (
    "entropy", "mean_entropy", "brier", "nll", "conformal_set_size", "distance", "relative_distance", "seconds",
    "requested", "queries", "predictions", "operator_calls", "relative_seconds", "certificate",
)  # fmt: skip
SYMMETRIC = ("attained", "effect", "gain")  # numbers in [-1, 1]


def is_share(metric: str) -> bool:
    """Whether a metric is a share, a rate or an AUROC (and not a change of one)."""
    return "_change" not in metric and (_base(metric).startswith(SHARES) or _base(metric) == "certified")


def bounds(metric: str) -> tuple[float, float] | None:
    """Between what the mean of a metric must lie, where that is known."""
    if _base(metric).startswith(SYMMETRIC) or "_effect" in metric:
        return -1.0, 1.0
    if "_change" not in metric and _base(metric).startswith(UNIT):
        return 0.0, 1.0
    return (0.0, float("inf")) if "_change" not in metric and _base(metric).startswith(NEVER_NEGATIVE) else None


def interval(groups: Sequence[Sequence[float]], metric: str, units: str = "targets") -> Interval:
    """The interval of a metric from its values by seed; values that are not finite are left out.

    An AUROC, for example, is undefined when every answer is right. Without any value mean and bounds are NaN.
    """
    tensors = [torch.tensor(list(group), dtype=torch.float64) for group in groups]
    finite = [group[torch.isfinite(group)] for group in tensors]
    if not any(len(group) for group in finite):
        return Interval(float("nan"), float("nan"), float("nan"), 0, "no defined value")
    return grouped_interval(finite, "share" if is_share(metric) else "plain", bounds(metric), units)


def values_of_game(row: Mapping[str, Any], metric: str) -> list[float]:
    """What a game contributes to a metric over games: its mean, and of yes and no the answer of every target.

    Where targets share a request (`targets.mode=set`) they share a model, and only their mean counts.
    """
    mean = float(row[metric])
    targets, requests = row.get("targets"), row.get("requests")
    if targets and targets == requests and _of_every_target(metric) and not metric.endswith("_benign"):
        hits = round(mean * int(targets))
        return [1.0] * hits + [0.0] * (int(targets) - hits)
    return [mean]


def _of_every_target(metric: str) -> bool:
    """Whether the victim's own seed gives a yes or no for every target in this column, such as `kept_after`."""
    return metric.partition("_")[0] in YES_OR_NO


def _base(metric: str) -> str:
    return metric.removeprefix("fresh_")
