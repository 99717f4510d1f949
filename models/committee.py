"""A committee: several models of one architecture, trained apart, whose predictions are aggregated to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.victim import Tensors

Aggregation = Literal["mean", "vote"]


class Committee(nn.Module):
    """One module of len(weights) constituents, each built by `build`; constituent k counts `weights[k]` times.

    The "logits" are the logarithm of the aggregated probabilities, so that their softmax is the aggregate. `mean`: mean
    of the constituents' softmax. `vote`: share of the votes for their most probable classes; where classes share the
    lead, the one with the higher mean probability wins. Its gradient is zero.
    """

    def __init__(
        self, build: Callable[[], nn.Module], weights: Sequence[int], aggregation: Aggregation = "mean"
    ) -> None:
        super().__init__()
        self.constituents = nn.ModuleList(build() for _ in weights)
        self.weights = tuple(weights)
        self.aggregation = aggregation

    def forward(self, x: Tensor) -> Tensor:
        """Logarithm of the aggregated probabilities (n, classes) of inputs (n, *shape)."""
        log_p = torch.stack([constituent(x).log_softmax(-1) for constituent in self.constituents])
        weights = torch.tensor(self.weights, dtype=log_p.dtype, device=log_p.device)[:, None, None]
        if self.aggregation == "mean":
            return (log_p + (weights / weights.sum()).log()).logsumexp(0)
        return _vote(log_p, weights)


def _vote(log_p: Tensor, weights: Tensor) -> Tensor:
    """Logarithm of the share of votes (n, classes); no vote counts as the smallest positive number."""
    rounding = torch.finfo(log_p.dtype)
    classes = torch.arange(log_p.shape[-1], device=log_p.device)
    votes = (weights * (log_p.argmax(-1, keepdim=True) == classes)).sum(0)  # sums of integers: ties are exact
    mean = (weights * log_p.exp()).sum(0) / weights.sum()
    leading = votes == votes.amax(-1, keepdim=True)
    winner = torch.where(leading, mean, -1).argmax(-1, keepdim=True) == classes
    share = (
        votes / weights.sum() * (1 + 16 * rounding.eps * winner.to(mean))
    )  # enough to lead, and nothing that one can see
    return (share + 0 * mean).clamp_min(rounding.tiny).log()  # 0 * mean: a gradient that is zero, rather than none


def join(constituents: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """Parameters (or buffers) of the constituents, in their order, under their names in the committee."""
    return {
        f"constituents.{k}.{name}": value for k, tensors in enumerate(constituents) for name, value in tensors.items()
    }


def constituent(tensors: Mapping[str, Tensor], k: int) -> Tensors:
    """Of a committee's parameters (or buffers) those of constituent `k`, under its own names: the inverse of `join`."""
    prefix = f"constituents.{k}."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
