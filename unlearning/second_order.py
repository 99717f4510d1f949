"""Second-order unlearning: one Newton step on the retained objective."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.examples import Examples
from models.bilinear import curvature_between
from models.gradients import inner_products_many, weighted_gradient, weighted_input_gradients
from models.influence import inverse_curvature
from models.solver import Solver
from models.victim import ModelStack, Victim
from unlearning.procedure import Procedure
from unlearning.task import Task


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class SecondOrder(Procedure):
    """theta' = theta - (H_w + damping I)^{-1} grad F(theta; w): right away from a stationary point too.

    With `retained_curvature` H_w is the curvature of the retained objective, else that of the full one (influence).
    The deleted gradients are taken at the submitted copies x~_i, the curvature at the stored records. dL/dw_i =
    (1/n) [<v, g_i(x~_i)> + v' H_i s] with v = H^{-1} q and s = theta' - theta; the second term only for the
    retained curvature. Buffers are not updated.
    Source: Warnecke et al., NDSS 2023 (the second-order update, for deletion).
    """

    stochastic: ClassVar[bool] = False
    remedy: ClassVar[str] = "raise unlearning.solver.damping (now {0.solver.damping:g})"
    retained_curvature: bool = True
    solver: Solver = Field(default_factory=lambda: Solver(method="auto", damping=0.03))

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Not where the curvature changes with the request and is that of examples drawn at random."""
        return not (self.retained_curvature and self.solver.method == "woodbury")

    def _weights(self, task: Task, forget_weights: Tensor) -> Tensor:
        return task.total(forget_weights if self.retained_curvature else torch.zeros_like(forget_weights))

    def _solve(self, task: Task, victim: Victim, forget_weights: Tensor, vectors: Tensor) -> Tensor:
        start = victim.copies(1)
        weights, decay = self._weights(task, forget_weights), task.training.weight_decay
        return inverse_curvature(self.solver, start, task.records, weights, decay, vectors, base=victim).x

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """One Newton step for every row of `forget_weights` (m, n)."""
        n, nothing = len(task.records), torch.zeros_like(forget_weights[:1])
        kept = weighted_gradient(victim, task.records, 1 - task.total(nothing))
        leaving = weighted_gradient(victim, submitted or task.records, forget_weights)
        slope = (kept - leaving) / n + task.training.weight_decay * victim.flat()
        return victim.moved(-self._solve(task, victim, forget_weights, slope))

    def request_vjp(
        self,
        task: Task,
        victim: Victim,
        models: ModelStack,
        forget_weights: Tensor,
        cotangent: Tensor,
        submitted: Examples | None = None,
    ) -> Tensor:
        """dL/dw (m, n)."""
        v = self._solve(task, victim, forget_weights, cotangent)
        slopes = inner_products_many(victim.copies(1), submitted or task.records, v)
        if self.retained_curvature:
            s = models.flat() - victim.flat()
            slopes = slopes + curvature_between(self.solver.curvature, victim, task.records, v, s)
        return slopes / len(task.records)

    def copies_vjp(self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor, at: Examples) -> Tensor:
        """dL/dx~_i, shape of `at.x`, for one request: (1/n) w_i grad_x <v, grad_theta l(x~_i)>; q (p,)."""
        v = self._solve(task, victim, forget_weights[None], cotangent[None])[0]
        return weighted_input_gradients(victim, at, forget_weights / len(task.records), v)
