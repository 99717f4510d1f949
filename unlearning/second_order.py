"""Second-order unlearning: one Newton step on the retained objective."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import jvp, vmap

from data.examples import Examples
from models.curvature import softmax_curvature
from models.gradients import CHUNK, inner_products_many, input_gradients, losses, weighted_gradient
from models.influence import inverse_curvature
from models.passes import joined, passes
from models.solver import Solver
from models.victim import ModelStack, Tensors, Victim, forward, unflatten
from unlearning.procedure import Procedure
from unlearning.task import Task


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class SecondOrder(Procedure):
    """theta' = theta - (H_w + damping I)^{-1} grad F(theta; w): right away from a stationary point too.

    With `retained_curvature` H_w is the curvature of the retained objective, else that of the full one (influence).
    The deleted gradients are taken at the submitted copies, the curvature at the stored records. dL/dw_i =
    (1/n) [<v, g_i> + v' H_i s] with v = H^{-1} q and s = theta' - theta; the second term only for the
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
        start = victim.copies(1)
        slopes = inner_products_many(start, task.records, v)
        if self.retained_curvature:
            slopes = slopes + self._bilinear(start, task.records, v, models.flat() - victim.flat())
        return slopes / len(task.records)

    def _bilinear(self, start: ModelStack, examples: Examples, v: Tensor, s: Tensor) -> Tensor:
        """v_j' H_i s_j for every row j and example i, shape (m, n), with H_i the curvature of example i's loss."""
        if self.solver.curvature == "fisher":  # H_i = g_i g_i'
            return inner_products_many(start, examples, v) * inner_products_many(start, examples, s)
        victim = start[0]
        curved = self._loss_curvature if self.solver.curvature == "hessian" else self._gauss_newton
        run = vmap(partial(curved, victim), in_dims=(None, 0, 0))
        which, parts = passes(victim, examples.x, CHUNK, len(v), count=2)  # changes along v, and along s

        def products(rows: slice, part: slice) -> Tensor:
            left, right = unflatten(v[rows], victim.moving), unflatten(s[rows], victim.moving)
            found: Tensor = run(examples[part], left, right)
            return found

        with torch.no_grad():
            return joined(which, parts, products, dim=1)

    @staticmethod
    def _gauss_newton(victim: Victim, examples: Examples, left: Tensors, right: Tensors) -> Tensor:
        def logits(values: Tensors) -> Tensor:
            return forward(victim.module, values, victim.buffers, examples.x)

        outputs, change = jvp(logits, (victim.moving,), (right,))[:2]
        pulled: Tensor = jvp(logits, (victim.moving,), (left,))[1]
        return (pulled * softmax_curvature(outputs.softmax(-1), change)).sum(-1)

    @staticmethod
    def _loss_curvature(victim: Victim, examples: Examples, left: Tensors, right: Tensors) -> Tensor:
        def along(values: Tensors) -> Tensor:
            def loss(p: Tensors) -> Tensor:
                return losses(victim.module, p, victim.buffers, examples.x, examples.y)

            return jvp(loss, (values,), (left,))[1]

        curved: Tensor = jvp(along, (victim.moving,), (right,))[1]
        return curved

    def pull_back_copies(
        self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor, at: Examples
    ) -> Tensor:
        """dL/dx~_i, shape of `at.x`, for one request: (1/n) w_i grad_x <v, grad_theta l(x~_i)>; q (p,)."""
        v = self._solve(task, victim, forget_weights[None], cotangent[None])[0]
        scale = (forget_weights / len(task.records)).reshape(-1, *[1] * (at.x.dim() - 1))
        return scale * input_gradients(victim, at, v)
