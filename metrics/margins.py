"""How far a model is from giving an example another label: the score of membership attacks and of KLoM."""

from __future__ import annotations

from torch import Tensor


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """phi = z_y - logsumexp_{k != y} z_k of logits z (..., n, K) with K >= 2 at labels y (n,): (..., n), float32.

    That is log(p_y / (1 - p_y)) of the softmax, without its loss of precision for p_y near 1 (Carlini et al. 2022,
    "Membership Inference Attacks From First Principles", section IV-C). Computed in float64.
    """
    z = logits.double()
    label = y.long().expand(z.shape[:-1]).unsqueeze(-1)
    others = z.scatter(-1, label, float("-inf")).logsumexp(-1)
    return (z.gather(-1, label).squeeze(-1) - others).float()
