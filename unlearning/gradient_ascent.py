"""Gradient ascent on the deleted examples (operator O4, NegGrad): approximate, without a guarantee."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import grad_and_value, vmap

from data.errors import UserError
from data.examples import Examples
from models.gradients import losses
from models.victim import Ensemble, Tensors, Victim
from unlearning.procedure import Task, plain_learning


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class GradientAscent:
    """theta_{j+1} = theta_j + lr grad mean_{i deleted} l(x~_i; theta_j), for at most `steps` full-batch steps.

    The objective has no maximum, so a model stops once the mean loss on its deleted examples exceeds `loss_cap` nats
    (null: ln K, the loss of a uniform guess). Defined for 0/1 weights only, therefore not differentiable in the
    request. The gradient is taken at the submitted copies. Source: attacks sheet, operator O4; unlearning sheet 2.2.
    """

    differentiable: ClassVar[bool] = False
    uses_copy: ClassVar[bool] = True
    draws: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    secret: ClassVar[bool] = False
    steps: Annotated[int, Field(ge=1)] = 10
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    loss_cap: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def learn(self, task: Task, seed: int) -> Victim:
        """Train the victim."""
        return plain_learning(task, seed)

    def forget(
        self, task: Task, victim: Victim, deleted: Tensor, seed: int, submitted: Examples | None = None
    ) -> Ensemble:
        """Ascend for every row of `deleted` (m, n); an empty row leaves the victim as it is."""
        if not ((deleted == 0) | (deleted == 1)).all():
            raise UserError(
                "unlearning=gradient_ascent forgets whole examples; fractional deletion weights have no meaning."
            )
        models = victim.copies(len(deleted))
        columns = deleted.any(dim=0)
        if not columns.any():
            return models
        examples = (submitted or task.records)[columns]
        share = deleted[:, columns] / deleted.sum(dim=1, keepdim=True).clamp_min(1)

        def mean_loss(parameters: Tensors, buffers: Tensors, weights: Tensor) -> Tensor:
            return weights.dot(losses(models.module, parameters, buffers, examples.x, examples.y))

        climb = vmap(grad_and_value(mean_loss))
        parameters, cap = models.parameters, self.loss_cap
        with torch.no_grad():
            classes = victim.logits(examples.x[:1]).shape[-1]
            for _ in range(self.steps):
                slopes, values = climb(parameters, models.buffers, share)
                rising = self.lr * (values <= (cap if cap is not None else math.log(classes))).to(values)
                parameters = {
                    name: value + rising.reshape(-1, *[1] * (value.dim() - 1)) * slopes[name]
                    for name, value in parameters.items()
                }
        return Ensemble(models.module, parameters, models.buffers)
