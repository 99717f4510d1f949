"""How far an unlearned model is from the one that never saw the deleted examples: in its predictions and parameters."""

import math

from torch import Tensor

from metrics.measurement import Measurement, checked_probabilities


def total_variation(first: Tensor, second: Tensor) -> Measurement:
    """Mean over examples of (1/2) sum_k |p_k - q_k|, in [0, 1]: how far two models' predictions are apart.

    Both (n, K). Raises ValueError where they are not distributions, or differ in shape.
    """
    p, q = _pair(first, second)
    value = float((p - q).abs().sum(1).mean() / 2)
    return Measurement(value, len(p), {"scale": "fraction", "direction": "lower is nearer"}, floor=0.0)


def disagreement(first: Tensor, second: Tensor) -> Measurement:
    """Share of examples for which two models predict different labels, in [0, 1]; both (n, K).

    Raises ValueError where they are not distributions, or differ in shape.
    """
    p, q = _pair(first, second)
    value = float((p.argmax(1) != q.argmax(1)).double().mean())
    return Measurement(value, len(p), {"scale": "fraction", "direction": "lower is nearer"}, floor=0.0)


def relative_distance(unlearned: Tensor, retrained: Tensor, original: Tensor) -> Measurement:
    """||theta_u - theta_r|| / ||theta_o - theta_r||: 0 is retraining, 1 is what doing nothing gives; parameters (p,).

    NaN where retraining changed nothing. Raises ValueError for vectors of different length.
    """
    if not unlearned.shape == retrained.shape == original.shape or unlearned.ndim != 1:
        raise ValueError("The parameters of three models are vectors of one length.")
    reference = retrained.double()
    whole = float((original.double() - reference).norm())
    value = float((unlearned.double() - reference).norm()) / whole if whole > 0 else math.nan
    return Measurement(value, len(reference), {"scale": "ratio", "direction": "lower is nearer", "nothing": 1.0})


def _pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    p, q = checked_probabilities(first), checked_probabilities(second)
    if p.shape != q.shape:
        raise ValueError(f"Two models' predictions have one shape, not {tuple(p.shape)} and {tuple(q.shape)}.")
    return p, q
