"""Exact unlearning: train again without the deleted examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.examples import Examples
from models.gradients import inner_products_many
from models.influence import inverse_curvature
from models.solver import Solver
from models.training import fresh, train
from models.victim import ModelStack, Victim, stack
from unlearning.procedure import Procedure
from unlearning.provable import Account, descended, drawn
from unlearning.task import Task


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Retrain(Procedure):
    """theta' = argmin F(.; w), trained by the victim's recipe with the deleted examples at weight 0.

    Many requests retrain together on the same batches. Differentiable implicitly: at a stationary point
    dL/dw_i = (1/n) <H_w^{-1} q, g_i(theta')>, with `solver` for the inverse; with another curvature than the Hessian
    (Gauss-Newton for networks, fisher) or layers=last that is an approximation. The server deletes its own record, so a
    perturbed copy changes nothing. A pruned victim is retrained with its mask from the start, as in Jia et al., NeurIPS
    2023: the sparse architecture stays, and with it what the choice of the mask says about the deleted examples.
    """

    differentiable: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    remedy: ClassVar[str] = "lower training.lr"
    solver: Solver = Field(default_factory=Solver)

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """Retrain once for every row of `forget_weights` (m, n), all with the initialisation and batches of `seed`."""
        seeds = [seed] * len(forget_weights)
        start = _start(task, seeds, lambda: victim.copies(len(seeds)), pruned=bool(victim.mask))
        return train(task.build, task.records, task.training, seeds, task.total(forget_weights), start, "retraining")

    def forget_provably(self, task: Task, victim: Victim, deleted: Tensor, seed: int, account: Account) -> Victim:
        """Train a model drawn from `seed` on the retained records alone, with every step taken down."""
        return descended(task, drawn(task, seed), task.training, deleted, seed, account)

    def forget_many(
        self, task: Task, victims: Sequence[Victim], forget_weights: Tensor, seeds: Sequence[int]
    ) -> list[Victim]:
        """Retrain for every victim without its row of `forget_weights` (N, n), in turns."""
        if not len(victims) == len(forget_weights) == len(seeds):
            raise ValueError(f"{len(victims)} victims, {len(forget_weights)} requests and {len(seeds)} seeds.")
        if not seeds:
            return []
        start = _start(task, seeds, lambda: stack(victims), pruned=any(victim.mask for victim in victims))
        total = task.total(forget_weights)
        models = train(
            task.build, task.records, task.training, seeds, total, start, label="retraining", as_if_alone=True
        )
        return [models[j] for j in range(len(models))]

    def damped(self, task: Task, damping: float) -> Procedure | None:
        """With another damping of the curvature: where training ends short of a minimum, it is a matter of choice."""
        if task.training.optimizer == "newton":
            return None
        return replace(self, solver=replace(self.solver, damping=damping))

    def request_vjp(
        self,
        task: Task,
        victim: Victim,
        models: ModelStack,
        forget_weights: Tensor,
        cotangent: Tensor,
        submitted: Examples | None = None,
    ) -> Tensor:
        """dL/dw (m, n) by the implicit function theorem at the retrained models."""
        total, decay = task.total(forget_weights), task.training.weight_decay
        solution = inverse_curvature(self.solver, models, task.records, total, decay, cotangent, base=victim)
        return inner_products_many(models, task.records, solution.x) / len(task.records)


def _start(task: Task, seeds: Sequence[int], victims: Callable[[], ModelStack], pruned: bool) -> ModelStack | None:
    """Where retraining begins, if not with fresh dense models."""
    if task.training.optimizer == "newton":  # the minimum is unique, so begin where it is near
        return victims()
    return replace(fresh(task.build, seeds, task.records.x), mask=victims().mask) if pruned else None
