"""Influence updates that replace records by corrected ones, or delete them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import grad, jvp

from data.examples import Examples
from models.bilinear import curvature_between
from models.curvature import softmax_curvature
from models.gradients import (
    CHUNK,
    GRAPH,
    by_parts,
    inner_products_many,
    input_gradients,
    losses,
    weighted_gradient,
)
from models.influence import inverse_curvature
from models.passes import rows_at_once
from models.solver import Solver
from models.victim import ModelStack, Tensors, Victim, forward, unflatten
from unlearning.procedure import Procedure
from unlearning.second_order import SecondOrder
from unlearning.task import Task


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class InfluenceReplacement(Procedure):
    """theta' = theta - (rate/n) G or theta - (H + damping I)^{-1} G/n, with G = sum_i w_i [grad l(z~_i) - grad l(z_i)].

    The submitted examples z~ take the place of the records z, with corrected features, labels or both; without any, the
    records are deleted. (`first_order` and `second_order` take a submitted copy for what is to be deleted instead.)
    All gradients are at theta. The paper's H is a sum over records: it is n times the H here, which is the curvature of
    F, weight decay included, so that both steps agree; its tau is rate/n. With `curvature_of: modified` H
    belongs to the data after the replacement, and the step is Newton's on the new objective where theta is stationary
    on the old one; with `original`, to the data before it. Away from a stationary point `second_order` also removes
    what is left of the old gradient; this procedure does not, so that with nothing to replace theta stays as it is.

    Records deleted earlier count neither in G nor in H; `task.forgotten` holds replaced records for deleted too, so a
    provider that goes on from corrected data puts them into `task.records`. BatchNorm buffers are read, not updated.
    Source: Warnecke et al., NDSS 2023 (first-order and second-order update).
    """

    stochastic: ClassVar[bool] = False
    remedy: ClassVar[str] = (
        "lower unlearning.rate (now {0.rate:g}) or raise unlearning.solver.damping (now {0.solver.damping:g})"
    )
    order: Literal["first", "second"] = "second"
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    curvature_of: Literal["modified", "original"] = "modified"
    solver: Solver = Field(default_factory=lambda: Solver(method="auto", damping=0.01))

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Not where the curvature changes with the request and is that of examples drawn at random."""
        return self.order == "first" or self.curvature_of == "original" or self.solver.method != "woodbury"

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """One step for every row of `forget_weights` (m, n): what is replaced, or without `submitted` deleted."""
        leaving, columns = _leaving(task, forget_weights)
        if not columns.any():
            return victim.copies(len(forget_weights))
        change = -weighted_gradient(victim, task.records[columns], leaving[:, columns])
        if submitted is not None:
            change = change + weighted_gradient(victim, submitted[columns], leaving[:, columns])
        mean = change / len(task.records)
        if self.order == "first":
            return victim.moved(-self.rate * mean)
        return victim.moved(-self._solve(task, victim, forget_weights, mean, submitted))

    def _solve(
        self, task: Task, victim: Victim, forget_weights: Tensor, vectors: Tensor, submitted: Examples | None
    ) -> Tensor:
        """(H_j + damping I)^{-1} v_j for every row of `vectors` (m, p)."""
        start, decay = victim.copies(1), task.training.weight_decay
        if self.curvature_of == "modified" and submitted is not None:
            examples, weights = _modified(task, forget_weights, submitted)
            solver = self.solver  # a dense factor of these examples would serve this one request, so auto takes none
            solver = replace(solver, method="cg") if solver.method == "auto" else solver
            return inverse_curvature(solver, start, examples, weights, decay, vectors).x
        weights = task.total(forget_weights if self.curvature_of == "modified" else torch.zeros_like(forget_weights))
        return inverse_curvature(self.solver, start, task.records, weights, decay, vectors, base=victim).x

    def request_vjp(
        self,
        task: Task,
        victim: Victim,
        models: ModelStack,
        forget_weights: Tensor,
        cotangent: Tensor,
        submitted: Examples | None = None,
    ) -> Tensor:
        """dL/dw (m, n); 0 for records that were forgotten before.

        Of a deletion (rate/n) <q, g_i>, or what `second_order` has. Of a replacement -(rate/n) <q, g~_i - g_i>, or
        -(1/n) [<v, g~_i - g_i> + v' (H~_i - H_i) s] with v = H^{-1} q and s = theta' - theta; the second term only for
        the modified curvature. g~_i and H~_i are those of the submitted example.
        """
        there, n = 1 - task.total(torch.zeros_like(forget_weights)), len(task.records)
        if submitted is not None:
            return -there * self._replaced(task, victim, models, forget_weights, cotangent, submitted) / n
        if self.order == "first":
            return there * self.rate / n * inner_products_many(victim.copies(1), task.records, cotangent)
        newton = SecondOrder(retained_curvature=self.curvature_of == "modified", solver=self.solver)
        return there * newton.request_vjp(task, victim, models, forget_weights, cotangent)

    def _replaced(
        self, task: Task, victim: Victim, models: ModelStack, forget_weights: Tensor, q: Tensor, submitted: Examples
    ) -> Tensor:
        """-n dL/dw (m, n) of a replacement, also for records that were forgotten before."""
        second, start = self.order == "second", victim.copies(1)
        v = self._solve(task, victim, forget_weights, q, submitted) if second else self.rate * q
        new, old = (inner_products_many(start, each, v) for each in (submitted, task.records))
        if not (second and self.curvature_of == "modified"):
            return new - old
        s, kind = models.flat() - victim.flat(), self.solver.curvature
        bent, straight = (curvature_between(kind, victim, each, v, s) for each in (submitted, task.records))
        return new - old + bent - straight

    def copies_vjp(self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor, at: Examples) -> Tensor:
        """dL/dx~_i, shape of `at.x`, for one request that replaces by `at`: -(1/n) w_i grad_x <v, grad_theta l(x~_i)>.

        Here q is (p,), v = rate q in the first order and H^{-1} q in the second; the modified curvature adds
        -(1/n) w_i grad_x v' H(x~_i) s with s = theta' - theta.
        """
        rows = forget_weights[None]
        leaving, columns = _leaving(task, rows)
        slopes = torch.zeros_like(at.x)
        if not columns.any():
            return slopes
        copies, v = at[columns], self.rate * cotangent
        if self.order == "second":
            v = self._solve(task, victim, rows, cotangent[None], at)[0]
        moved = input_gradients(victim, copies, v)
        if self.order == "second" and self.curvature_of == "modified":
            step = self.forget(task, victim, rows, 0, at).flat()[0] - victim.flat()
            moved = moved + self._curvature_slopes(victim, copies, v, step)
        slopes[columns] = -leaving[0, columns].reshape(-1, *[1] * (at.x.dim() - 1)) / len(task.records) * moved
        return slopes

    def _curvature_slopes(self, victim: Victim, copies: Examples, v: Tensor, s: Tensor) -> Tensor:
        """grad_x v' H(x_i) s for every copy, with H the solver's curvature of its loss."""
        at, left, right = victim.moving, unflatten(v, victim.moving), unflatten(s, victim.moving)

        def hessian(x: Tensor, y: Tensor) -> Tensor:
            def along(values: Tensors) -> Tensor:
                return jvp(partial(_losses, victim, x, y), (values,), (left,))[1]

            return jvp(along, (at,), (right,))[1].sum()

        def fisher(x: Tensor, y: Tensor) -> Tensor:
            loss = partial(_losses, victim, x, y)
            return (jvp(loss, (at,), (left,))[1] * jvp(loss, (at,), (right,))[1]).sum()

        def gauss_newton(x: Tensor, y: Tensor) -> Tensor:
            def logits(values: Tensors) -> Tensor:
                return forward(victim.module, values, victim.buffers, x)

            outputs, change = jvp(logits, (at,), (right,))[:2]
            curved = softmax_curvature(outputs.softmax(-1), change)
            return (jvp(logits, (at,), (left,))[1] * curved).sum()

        forms = {"gauss_newton": gauss_newton, "hessian": hessian, "fisher": fisher}
        slopes = grad(forms[self.solver.curvature])
        return by_parts(copies, rows_at_once(victim, copies.x, CHUNK, GRAPH), lambda part: slopes(part.x, part.y))


def _losses(victim: Victim, x: Tensor, y: Tensor, parameters: Tensors) -> Tensor:
    """l_i at other parameters, shape (n,)."""
    return losses(victim.module, parameters, victim.buffers, x, y)


def _leaving(task: Task, forget_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (m, n) of the records that leave now and were not gone before, and which columns (n,) have any."""
    leaving = task.total(forget_weights) - task.total(torch.zeros_like(forget_weights))
    return leaving, (leaving != 0).any(dim=0)


def _modified(task: Task, forget_weights: Tensor, submitted: Examples) -> tuple[Examples, Tensor]:
    """Records at weight 1 - w followed by copies at weight w, as examples and deletion weights.

    Products with the curvature divide by the number of their examples, so the weights are scaled to divide by n.
    """
    leaving, columns = _leaving(task, forget_weights)
    copies = submitted[columns]
    examples = Examples(torch.cat([task.records.x, copies.x]), torch.cat([task.records.y, copies.y]))
    retain_weights = torch.cat([1 - task.total(forget_weights), leaving[:, columns]], dim=1)
    return examples, 1 - retain_weights * (len(examples) / len(task.records))
