"""Fisher forgetting: Gaussian noise, large where the retained records do not pin a parameter down (Golatkar et al.)."""

from __future__ import annotations

from typing import Annotated, ClassVar
from weakref import WeakKeyDictionary

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.fisher import diagonal_fisher
from models.victim import ModelStack, Victim, unflatten
from unlearning.procedure import Procedure
from unlearning.task import Task

FLOOR = 1e-8  # added to the Fisher information, as in the authors' code
_sums: WeakKeyDictionary[Victim, tuple[Examples, Tensor | None, Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class FisherForgetting(Procedure):
    """theta' ~ N(theta, alpha diag(s)) with s_k = min((F_k + 1e-8)^(-exponent), cap) for every parameter k.

    F_k is the mean over the retained records x of sum_y p(y|x) (d log p(y|x) / d theta_k)^2: the true Fisher
    information, from single records in eval mode and not from batch means, whose squares are far too small. With
    weights F is the weighted mean, so that fractions have a meaning. All requests share one draw of the noise, which
    `seed` gives; a request that deletes nothing is noised like any other. No row of a class is ever zeroed. (The code
    of Jia et al., NeurIPS 2023, squares batch means, and zeroes the row of the last class in random forgetting.)

    `exponent` is 1 in the authors' code, 0.5 in their formula. `averaged` adds the code's other rules: s is averaged
    over a weight's second dimension, the cap is a tenth in the last layer (tensors with as many rows as classes), and
    the variance of the last layer and of other vectors, such as biases, is ten times larger.
    The parameters of BatchNorm are noised too, its running statistics are not updated.
    Source: Golatkar et al., CVPR 2020, and its code.
    """

    remedy: ClassVar[str] = "lower unlearning.alpha (now {0.alpha:g}) or unlearning.cap (now {0.cap:g})"
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-6
    cap: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e3
    exponent: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    averaged: bool = False

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """The victim with noise for every row of `forget_weights` (m, n)."""
        variance = self.variance(task, victim, forget_weights)
        forgotten = 0 if task.forgotten is None else int((task.forgotten > 0).sum())  # the next request draws anew
        rng = generator(seed, "Fisher forgetting", forgotten)
        noise = torch.randn(variance.shape[1], generator=rng, dtype=variance.dtype).to(variance.device)
        return victim.moved(variance.sqrt() * noise)

    def variance(self, task: Task, victim: Victim, forget_weights: Tensor) -> Tensor:
        """alpha s, shape (m, p), for every row of `forget_weights` (m, n).

        Raises UserError for a request that leaves no record.
        """
        spread = (_fisher(task, victim, forget_weights) + FLOOR) ** -self.exponent
        if not self.averaged:
            return self.alpha * spread.clamp(max=self.cap)
        classes = victim.logits(task.records.x[:1]).shape[-1]
        parts = [
            self._rules(value, last=value.shape[1] == classes) for value in unflatten(spread, victim.moving).values()
        ]
        return self.alpha * torch.cat([part.reshape(len(forget_weights), -1) for part in parts], dim=1)

    def _rules(self, spread: Tensor, last: bool) -> Tensor:
        """What the authors' code makes of one tensor of s, shape (m, *shape)."""
        spread = spread.clamp(max=self.cap / 10 if last else self.cap)
        if spread.dim() > 2:
            spread = spread.mean(dim=2, keepdim=True).expand_as(spread)
        return 10 * spread if last or spread.dim() == 2 else spread


def _fisher(task: Task, victim: Victim, forget_weights: Tensor) -> Tensor:
    """F (m, p): the sum over all records that are there, once, less the part of those that each request deletes."""
    forgotten = task.total(torch.zeros_like(forget_weights[:1]))
    leaving = task.total(forget_weights) - forgotten
    columns, left = (leaving != 0).any(dim=0), (1 - forgotten).sum() - leaving.sum(dim=1, keepdim=True)
    if not (left > 0).all():
        raise UserError("unlearning=fisher_forgetting needs records that stay; a request deletes all of them.")
    total = _sum_of_all(task, victim, 1 - forgotten)
    if columns.any():
        total = total - diagonal_fisher(victim, task.records[columns], leaving[:, columns])
    return total.clamp_min(0).expand(len(forget_weights), -1) / left


def _sum_of_all(task: Task, victim: Victim, there: Tensor) -> Tensor:
    """The Fisher sum (1, p) over the records that are there; kept as long as the victim lives, as requests share it."""
    known = _sums.get(victim)
    if known is None or known[0] is not task.records or known[1] is not task.forgotten:
        known = (task.records, task.forgotten, diagonal_fisher(victim, task.records, there))
        _sums[victim] = known
    return known[2]
