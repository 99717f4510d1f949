"""Influence unlearning with the inverse empirical Fisher matrix (IU), by Woodbury over single-record gradients."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.gradients import gradient_matrix, weighted_gradient
from models.victim import ModelStack, Victim
from models.woodbury import woodbury
from unlearning.procedure import Procedure
from unlearning.task import Task

LARGEST = 2**30  # numbers in the gradients of the Fisher sample


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class InfluenceFisher(Procedure):
    """theta' = theta + alpha F^{-1} v with v = (1/N) sum_{D_f} g_i - n_f/(N n_r) sum_{D_r} g_i and N = n_f + n_r.

    It ascends on the deleted records D_f and descends on the retained D_r; records deleted earlier are in neither. g_i
    is the gradient of the loss of record i at theta, without weight decay. F = damping I + the mean of g_i g_i' over
    `samples` records drawn from `seed`, the same for all requests; a request's own records leave its mean. All of F is
    inverted, by `models.woodbury`: the official recursion is one scaled gradient step in effect. With nothing
    deleted v is 0. Not linear in w, and defined for whole records only, so there is no dL/dw. BatchNorm runs with its
    running statistics, which are not updated, and no record is augmented.
    Source: Jia et al., NeurIPS 2023 (there called IU).
    """

    remedy: ClassVar[str] = "lower unlearning.alpha (now {0.alpha:g}) or raise unlearning.damping (now {0.damping:g})"
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    damping: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    samples: Annotated[int, Field(ge=1)] = 500

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """One step for every row of `forget_weights` (m, n).

        Raises UserError for fractional weights, for a request that leaves no record, or none of the Fisher sample, and
        for a sample whose gradients do not fit into memory.
        """
        if not ((forget_weights == 0) | (forget_weights == 1)).all():
            raise UserError(
                "unlearning=influence_fisher forgets whole examples; fractional deletion weights have no meaning."
            )
        forgotten = task.total(torch.zeros_like(forget_weights[:1]))
        leaving = task.total(forget_weights) - forgotten
        sample, shares = self._sample(forgotten[0], leaving, seed, victim)
        direction = _direction(victim, task.records, forgotten, leaving)
        step = woodbury(gradient_matrix(victim, task.records[sample]), shares, self.damping, direction)
        return victim.moved(self.alpha * step)

    def _sample(self, forgotten: Tensor, leaving: Tensor, seed: int, victim: Victim) -> tuple[Tensor, Tensor]:
        """Positions (s,) of the Fisher sample, and each request's shares (m, s) of them, which sum to 1."""
        order = torch.randperm(len(forgotten), generator=generator(seed, "Fisher sample")).to(forgotten.device)
        sample = order[forgotten[order] == 0][: self.samples]
        kept = 1 - leaving[:, sample]
        if not kept.any(dim=1).all():
            raise UserError(
                f"A request leaves no record of the Fisher sample (unlearning.samples={self.samples}); "
                "raise unlearning.samples or delete fewer records."
            )
        if len(sample) * victim.flat().numel() > LARGEST:
            raise UserError(
                f"unlearning.samples={self.samples} asks for {len(sample):,} gradients of {victim.flat().numel():,} "
                f"numbers; at most {max(1, LARGEST // victim.flat().numel()):,} are held in memory: lower it."
            )
        return sample, kept / kept.sum(dim=1, keepdim=True)


def _direction(victim: Victim, records: Examples, forgotten: Tensor, leaving: Tensor) -> Tensor:
    """v (m, p), as (1/n_r) [sum_{D_f} g_i - (n_f/N) sum_D g_i]: what the sum over D_r is of the sum over all, once."""
    columns, count = leaving.any(dim=0), leaving.sum(dim=1, keepdim=True)
    if not columns.any():
        return torch.zeros(len(leaving), victim.flat().numel(), dtype=leaving.dtype, device=leaving.device)
    present = (1 - forgotten).sum()
    mean = weighted_gradient(victim, records, (1 - forgotten) / present)
    theirs = weighted_gradient(victim, records[columns], leaving[:, columns])
    return (theirs - count * mean) / (present - count)
