"""Gradient ascent on the deleted examples (NegGrad): approximate, without a guarantee."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import grad_and_value, vmap

from data.bounds import at_most
from data.examples import Examples
from models.curvature import hessian
from models.gradients import inner_products_many, losses, weighted_input_gradients
from models.mask import pruned
from models.passes import models_at_once, rows_at_once
from models.victim import ModelStack, Tensors, Victim, concatenate
from unlearning.procedure import Procedure
from unlearning.task import Task

CHUNK = 2**18  # examples x models of one step, at most
EXAMPLES = 64  # at least so many with every model, in a pass of products with many models


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class GradientAscent(Procedure):
    """theta_{j+1} = theta_j + lr grad [sum_i w_i l(x~_i; theta_j) / max(1, sum_i w_i)], at most `steps` full batches.

    For whole examples this is the mean loss of the deleted ones. It has no maximum, so a model stops once that mean
    exceeds `loss_cap` nats (null: ln K, the loss of a uniform guess). The gradient is taken at the submitted copies.
    Buffers are not updated. Differentiable by unrolling; the number of steps taken is held fixed, and below one whole
    deletion the weights are not normalised, so that the derivative exists where nothing is deleted too.
    A baseline of many papers; the cap on the loss is ours.
    """

    differentiable: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    remedy: ClassVar[str] = (
        "lower unlearning.lr (now {0.lr:g}), unlearning.steps (now {0.steps}) or unlearning.loss_cap (now {0.loss_cap})"
    )
    steps: Annotated[int, Field(ge=1), at_most(1_000_000, "each is a pass over the records")] = 10
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    loss_cap: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """Ascend for every row of `forget_weights` (m, n); an empty row leaves the victim as it is."""
        examples, columns = submitted or task.records, forget_weights.any(dim=0)
        if not columns.any():
            return victim.copies(len(forget_weights))
        at_once = rows_at_once(victim, examples.x, CHUNK, int(columns.sum()))
        with torch.no_grad():
            return concatenate([self._climbed(victim, examples, rows) for rows in forget_weights.split(at_once)])

    def _climbed(self, victim: Victim, examples: Examples, forget_weights: Tensor) -> ModelStack:
        models, columns = victim.copies(len(forget_weights)), forget_weights.any(dim=0)
        own = examples[columns]
        return replace(models, parameters=self._climb(models, own.x, own.y, forget_weights[:, columns]))

    def request_vjp(
        self,
        task: Task,
        victim: Victim,
        models: ModelStack,
        forget_weights: Tensor,
        cotangent: Tensor,
        submitted: Examples | None = None,
    ) -> Tensor:
        """dL/dw (m, n), by the adjoint of every step, from the last to the first.

        With a step theta' = theta + r sum_i s_i g_i(theta), dL/ds_i gains r <q', g_i(theta)>, and q = q' + r H q' with
        H = sum_i s_i H_i(theta).
        """
        examples = submitted or task.records
        x = examples.x
        at_once = max(1, min(models_at_once(victim) // self.steps, rows_at_once(victim, x, CHUNK, EXAMPLES)))
        pairs = zip(forget_weights.split(at_once), cotangent.split(at_once), strict=True)
        return torch.cat([self._slopes(examples, victim, weights, q) for weights, q in pairs])

    def _slopes(self, examples: Examples, victim: Victim, weights: Tensor, q: Tensor) -> Tensor:
        columns, start = (weights != 0).any(dim=0), victim.copies(len(weights))
        own, steps = examples[columns], list[tuple[Tensors, Tensor]]()
        with torch.no_grad():
            self._climb(start, own.x, own.y, weights[:, columns], steps)
        total = weights.sum(dim=1, keepdim=True)
        share = weights / total.clamp_min(1)
        slopes = torch.zeros_like(weights)
        for parameters, rising in reversed(steps):
            there, pushed = replace(start, parameters=parameters), rising[:, None] * q
            slopes += inner_products_many(there, examples, pushed)
            if len(own) > 0:  # the product divides by the number of its examples
                q = q + hessian(there, own, 1 - len(own) * share[:, columns], 0.0)(pushed)
        along = (slopes * share).sum(dim=1, keepdim=True)
        return torch.where(total >= 1, (slopes - along) / total.clamp_min(1), slopes)

    def copies_vjp(self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor, at: Examples) -> Tensor:
        """dL/dx~_i, shape of `at.x`, for one request; q (p,).

        By the same adjoints: with a step dL/dx~_i gains r s_i grad_x <q', g_i(theta)>.
        """
        columns, slopes = forget_weights != 0, torch.zeros_like(at.x)
        if not columns.any():
            return slopes
        copies, weights, start = at[columns], forget_weights[None, columns], victim.copies(1)
        steps, q, found = list[tuple[Tensors, Tensor]](), cotangent[None], torch.zeros_like(copies.x)
        with torch.no_grad():
            self._climb(start, copies.x, copies.y, weights, steps)
        share = weights / weights.sum(dim=1, keepdim=True).clamp_min(1)
        for parameters, rising in reversed(steps):
            there, pushed = replace(start, parameters=parameters), rising[:, None] * q
            found += weighted_input_gradients(there[0], copies, share[0], pushed[0])
            q = q + hessian(there, copies, 1 - len(copies) * share, 0.0)(pushed)
        slopes[columns] = found
        return slopes

    def _climb(
        self,
        models: ModelStack,
        x: Tensor,
        y: Tensor,
        weights: Tensor,
        steps: list[tuple[Tensors, Tensor]] | None = None,
    ) -> Tensors:
        """The parameters after the steps, for weights (m, c) of the examples x, y.

        `steps` is given the parameters before every step, and by how much it goes along the slopes (m,).
        """

        def mean_loss(parameters: Tensors, buffers: Tensors, share: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return share.dot(losses(models.module, parameters, buffers, x, y))

        climb = vmap(grad_and_value(mean_loss), in_dims=(0, 0, 0, None, None))
        parameters, size = models.moving, rows_at_once(models, x, CHUNK, len(models))
        share = weights / weights.sum(dim=1, keepdim=True).clamp_min(1)
        parts = list(zip(share.split(size, dim=1), x.split(size), y.split(size), strict=True))
        cap = self.loss_cap
        if cap is None:
            cap = math.log(models[0].logits(x[:1].detach()).shape[-1])
        for _ in range(self.steps):
            slopes, values = climb(parameters, models.buffers, *parts[0])
            for part in parts[1:]:
                more, further = climb(parameters, models.buffers, *part)
                slopes, values = {name: value + more[name] for name, value in slopes.items()}, values + further
            rising = self.lr * (values <= cap).to(values)
            if steps is not None:
                steps.append((parameters, rising))
            moved = {
                name: value + rising.reshape(-1, *[1] * (value.dim() - 1)) * slopes[name]
                for name, value in parameters.items()
            }
            parameters = pruned(moved, models.mask)
        return parameters
