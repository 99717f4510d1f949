"""First-order unlearning: one gradient step up on the deleted examples."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.examples import Examples
from models.curvature import hessian
from models.gradients import inner_products_many, weighted_gradient, weighted_input_gradients
from models.victim import ModelStack, Victim
from unlearning.procedure import Procedure
from unlearning.task import Task


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class FirstOrder(Procedure):
    """theta' = theta + (rate/n) sum_i w_i grad l(x~_i, y_i; theta): Warnecke's tau is rate/n.

    The gradient is taken at the submitted copy x~_i. Linear in w, so dL/dw_i = (rate/n) <q, grad l(x~_i)>. Buffers are
    not updated. Source: Warnecke et al., NDSS 2023 (the first-order update, for deletion).
    """

    differentiable: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    remedy: ClassVar[str] = "lower unlearning.rate (now {0.rate:g})"
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """One step for every row of `forget_weights` (m, n)."""
        gradients = weighted_gradient(victim, submitted or task.records, forget_weights)
        return victim.moved(self.rate / len(task.records) * gradients)

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
        examples = submitted or task.records
        return self.rate / len(task.records) * inner_products_many(victim.copies(1), examples, cotangent)

    def copies_vjp(self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor, at: Examples) -> Tensor:
        """dL/dx~_i, shape of `at.x`, for one request: (rate/n) w_i grad_x <q, grad_theta l(x~_i)>; q (p,)."""
        return weighted_input_gradients(victim, at, self.rate / len(task.records) * forget_weights, cotangent)

    def victim_vjp(self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor) -> Tensor:
        """dL/dtheta (m, p) = q + (rate/n) sum_i w_i H_i q, one Hessian-vector product for every row."""
        used = (forget_weights != 0).any(dim=0)
        if not bool(used.any()):
            return cotangent
        records, weights = task.records[used], forget_weights[:, used]
        product = hessian(victim.copies(1), records, 1 - weights, shift=0.0)
        return cotangent + self.rate * len(records) / len(task.records) * product(cotangent)
