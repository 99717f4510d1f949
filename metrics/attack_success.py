"""Whether an attack did what it was after, as rates over targets with exact (Clopper-Pearson) intervals."""

from typing import Literal

import torch
from torch import Tensor

from metrics.intervals import rate_interval
from metrics.measurement import Measurement, checked_values


def _kept(before_label: Tensor, after_label: Tensor) -> Tensor:
    """Whether each target's predicted label is unchanged: bool (n,)."""
    if before_label.ndim != 1 or before_label.shape != after_label.shape or len(before_label) == 0:
        raise ValueError("Labels before and after are two tensors of one shape (n,), n >= 1.")
    if before_label.dtype.is_floating_point or after_label.dtype.is_floating_point:
        raise ValueError("Labels are integers.")
    return before_label.detach().cpu() == after_label.detach().cpu()


def _rate(success: Tensor, settings: dict[str, object]) -> Measurement:
    interval = rate_interval(int(success.sum()), len(success))
    settings |= {"low": interval.low, "high": interval.high, "interval": interval.method, "scale": "fraction"}
    return Measurement(interval.mean, interval.n, settings)


def attack_success_rate(before_label: Tensor, after_label: Tensor) -> Measurement:
    """Label-flip success: share of targets whose predicted label (n,) is no longer the original one."""
    return _rate(~_kept(before_label, after_label), {"success": "label changed"})


def label_kept(before_label: Tensor, after_label: Tensor) -> Measurement:
    """Share of targets whose predicted label (n,) is unchanged: 1 - `attack_success_rate`."""
    return _rate(_kept(before_label, after_label), {"success": "label kept"})


def moved(
    before_confidence: Tensor,
    after_confidence: Tensor,
    before_label: Tensor,
    after_label: Tensor,
    direction: Literal["over", "under"],
    least: float = 0.2,
) -> Measurement:
    """Uncertainty-attack success: share of targets whose confidence moved by >= `least` as wanted AND kept their label.

    All tensors (n,). `direction` "over" wants the confidence up, "under" down. The settings also give the mean signed
    change (positive is as wanted) over all targets. The comparison is exact: no tolerance is added to `least`.
    """
    if direction not in ("over", "under"):
        raise ValueError(f'The direction is "over" or "under", not {direction!r}.')
    if not least > 0:
        raise ValueError(f"The least change that counts is above 0, not {least}.")
    before = checked_values(before_confidence, "Confidences before")
    change = checked_values(after_confidence, "Confidences after") - before
    kept = _kept(before_label, after_label)
    if change.shape != kept.shape or before.shape != kept.shape:
        raise ValueError("Confidences and labels are of one shape (n,).")
    wanted = change if direction == "over" else -change
    settings: dict[str, object] = {"direction": direction, "least": least, "mean_change": float(wanted.mean())}
    return _rate((wanted >= least) & kept, settings)


def countable_change(before: Tensor, after: Tensor, before_label: Tensor, after_label: Tensor) -> Measurement:
    """Mean of after - before over the countable targets, those that kept their label; n counts only these.

    `before`, `after` (n,): any uncertainty or confidence. It lets a label-flip attack be compared with an uncertainty
    attack at equal budget. The settings give the share of countable targets with its interval; with none of them the
    value is NaN.
    """
    change = checked_values(after, "Values after") - checked_values(before, "Values before")
    kept = _kept(before_label, after_label)
    if change.shape != kept.shape:
        raise ValueError("Values and labels are of one shape (n,).")
    share = label_kept(before_label, after_label)
    settings = {**share.settings, "targets": share.n, "countable": share.value, "scale": "after - before"}
    value = float(change[kept].mean()) if bool(torch.any(kept)) else float("nan")
    return Measurement(value, int(kept.sum()), settings)
