"""Unrolling SGD: take back the first-order effect of the deleted records, at the initial parameters."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.batches import lr_factor
from models.gradients import inner_products_many, weighted_gradient, weighted_input_gradients
from models.training import initialise
from models.victim import ModelStack, Victim, unflatten
from unlearning.learning import plain_learning
from unlearning.procedure import Procedure
from unlearning.task import Task


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class UnrollingSGD(Procedure):
    """theta' = theta_T + rate * sum_i w_i g_i(theta_0), with g_i the gradient at the submitted copy x~_i.

    theta_0 is the initialisation, whose statistics batch-norm uses there; those of the result are the victim's.
    `rate` null: from the recipe of SGD, (1/B) sum over epochs of the mean learning rate of the epoch / (1 - momentum),
    with B the size of a batch: the paper's eta E / B for a constant learning rate without momentum. The first-order
    expansion leaves out curvature and weight decay; with one step of plain full-batch SGD it is retraining. Linear in
    w, so dL/dw_i = rate <q, g_i(theta_0)>. Source: Thudi et al., EuroS&P 2022.
    """

    differentiable: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    remedy: ClassVar[str] = "give unlearning.rate a lower number (now {0.rate})"
    learns_with: ClassVar[tuple[str, ...]] = ()  # a rate that cannot be derived is refused, and changes nothing
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def step_size(self, task: Task) -> float:
        """The rate in force; raises UserError where it cannot be derived from the recipe."""
        if self.rate is not None:
            return self.rate
        recipe, n = task.training, len(task.records)
        if recipe.optimizer != "sgd":
            raise UserError(
                f"unlearning.rate=null is derived from the steps of SGD, not of training.optimizer={recipe.optimizer}; "
                "give unlearning.rate a number, or use training=sgd."
            )
        per_epoch = math.ceil(n / recipe.batch_size)
        total = recipe.epochs * per_epoch
        epochs = sum(lr_factor(recipe.schedule, step, total) for step in range(total)) / per_epoch
        return recipe.lr * epochs / (1 - recipe.momentum) / min(recipe.batch_size, n)

    def learn(self, task: Task, seed: int) -> Victim:
        """Train the victim; the history holds the initial parameters (p,) and buffers."""
        self.step_size(task)
        initial, learned = Victim(*initialise(task.build, seed, task.records.x)), plain_learning(task, seed)
        buffers = {_buffer_name(name): value for name, value in initial.buffers.items()}
        return replace(learned, history={"initial": initial.flat(), **buffers})

    @staticmethod
    def _initial(victim: Victim) -> Victim:
        buffers = {name: victim.history[_buffer_name(name)] for name in victim.buffers}
        return Victim(victim.module, unflatten(victim.history["initial"], victim.moving), buffers, mask=victim.mask)

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """One step for every row of `forget_weights` (m, n); what earlier requests added stays."""
        gradients = weighted_gradient(self._initial(victim), submitted or task.records, forget_weights)
        return victim.moved(self.step_size(task) * gradients)

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
        start = self._initial(victim).copies(1)
        return self.step_size(task) * inner_products_many(start, submitted or task.records, cotangent)

    def copies_vjp(self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor, at: Examples) -> Tensor:
        """dL/dx~_i, shape of `at.x`, for one request: rate w_i grad_x <q, grad_theta l(x~_i; theta_0)>; q (p,)."""
        return weighted_input_gradients(self._initial(victim), at, self.step_size(task) * forget_weights, cotangent)


def _buffer_name(name: str) -> str:
    return f"initial buffer {name}"


def verification_error(unlearned: ModelStack, retrained: ModelStack) -> Tensor:
    """v = ||theta' - theta_r|| (m,), to models retrained without the records on the same batches."""
    return (unlearned.flat() - retrained.flat()).norm(dim=1)


def unlearning_error(moved: Tensor, lr: float, steps: int, sigma: Tensor) -> Tensor:
    """e = (1/2) lr^2 t ||theta_t - theta_0|| sigma, Thudi's proxy for the verification error, in the form of the code.

    `moved` is ||theta_t - theta_0|| and `sigma` the root of the largest eigenvalue of the Hessian; shapes broadcast.
    A proxy to compare runs by, not an upper bound: on a quadratic v exceeds e (tested).
    """
    return 0.5 * lr**2 * steps * moved * sigma
