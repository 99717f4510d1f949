"""Adv-Sr: retraining whose batches have retained substitutes, drawn at random, with gradients like the deleted ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.provider.candidates import Compares, Norm, comparing, distinct
from attacks.provider.provider import Demand
from data.errors import UserError
from data.randomness import generator
from models.plan import Plan, follow
from models.stepwise import Opening, Stepwise
from models.victim import Victim
from unlearning.provable import drawn, retained
from unlearning.task import Task

log = logging.getLogger(__name__)
Watch = Callable[[Tensor, Tensor], None]  # told of the distances (m,) of all candidates of a step, and of ||g_u||


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class RetrainRandom:
    """Retrains from fresh weights, by the recipe, on retained records alone, in batches that resemble the original's.

    Of every epoch all records are available at first. A step draws a batch b of B available records uniformly. Its
    deleted records u give way to retained ones: `candidates` times as many are drawn from the available retained
    records outside b, and those are taken whose gradient, at the weights w of the step, is nearest to that of u:

        argmin_s || grad L_s(w) - grad L_u(w) ||,   L_s the mean loss over s,

    in the sum of the l2 norms of the parameters (`norm` sum_tensor, as published) or in the l2 norm of all of them
    (global); the last of equals. Records of b and substitutes are no longer available, so every retained record is used
    at most once in an epoch, and an epoch has floor(r / B) steps with r retained records, as honest retraining has. The
    proof is genuine, since every step is one on retained records; what is abused is the freedom to choose batches,
    which an order chosen by a verifier takes away: this provider ignores one. Counting does not tell it from honest
    retraining, but the order does: candidates of small loss have small gradients, which are nearer to most others, so
    that hard records are left to the end of every epoch (ours).

    Gradients are those of the training mode; what they change in batch-norm statistics is undone. The last weights are
    released, as honest retraining does. A step costs B + (candidates + 1) |u| gradient evaluations.

    Source: Zhang, Chen, Shen, Li, "Verification of Machine Unlearning is Fragile", ICML 2024.
    """

    game: ClassVar[str] = "verification"
    name: ClassVar[str] = "retrain_random"
    trains_anew: ClassVar[bool] = True
    candidates: Annotated[int, Field(ge=1, le=100_000)] = 50
    norm: Norm = "sum_tensor"

    def check(self, task: Task, deleted: int, proves: bool) -> None:
        """Raise UserError where training has no steps."""
        check_steps(self.name, task)

    def pretend(self, demand: Demand) -> Victim:
        """The retrained model; its proof has the batches that were chosen."""
        gaps = Gaps()
        victim = self.retrained(demand, gaps.note)
        if gaps.steps:
            log.info("Matching gradients: %s.", gaps)
        return victim

    def retrained(self, demand: Demand, watch: Watch | None = None) -> Victim:
        """The same; `watch` is told how far the candidates of every step were from what was wanted."""
        task, deleted = demand.task, torch.tensor(demand.request.indices, dtype=torch.long)
        left = retained(task, deleted)
        plan, start = Plan(task.training, len(left)), drawn(task, demand.seed)
        learner = Stepwise(start, task.training, task.records.x, demand.seed, demand.gradients)
        gradients = comparing(learner, start, task.records, self.norm)
        batches = self.batches(plan, left, deleted, gradients, generator(demand.seed, self.name), watch)
        opening = Opening(training=task.training, steps=plan.steps, seed=demand.seed)
        label = "retraining with chosen batches"
        return follow(learner, task.records, plan, batches, opening, demand.recorder, label)

    def batches(
        self, plan: Plan, left: Tensor, deleted: Tensor, gradients: Compares, rng: torch.Generator,
        watch: Watch | None = None,
    ) -> Iterator[Tensor]:  # fmt: skip
        """For every step of `plan` the positions (B,) of its batch, all of them in `left` (r,).

        A substitute stands in the place of the record that it replaces. Each batch is chosen when it is asked for, at
        the weights of that moment.
        """
        size = plan.training.batch_size
        unwanted = torch.zeros(int(torch.cat([left, deleted]).max()) + 1, dtype=torch.bool)
        unwanted[deleted] = True
        for step in range(plan.steps):
            if step % plan.per_epoch == 0:
                available = unwanted.clone()
                available[left] = True
            pool = available.nonzero()[:, 0]
            batch = pool[distinct(len(pool), size, 1, rng)[0]]
            available[batch] = False
            gone = unwanted[batch]
            if bool(gone.any()):
                # Each step uses up B retained records, so that every step of the plan has at least B of them. Of these
                # B - |u| are in b, and at least |u| are left to choose from.
                free = (available & ~unwanted).nonzero()[:, 0]
                tried = free[distinct(len(free), int(gone.sum()), self.candidates, rng)]
                apart, norm = gradients.distances(batch[gone], tried, step)
                chosen = tried[len(tried) - 1 - int(apart.flip(0).argmin())]
                batch[gone] = chosen
                available[chosen] = False
                if watch is not None:
                    watch(apart, norm)
            yield batch


@plain_dataclass
class Gaps:
    """How well gradients were matched, over all steps that had deleted records in their batch."""

    steps: int = 0
    best: float = 0.0
    median: float = 0.0
    norm: float = 0.0

    def note(self, apart: Tensor, norm: Tensor) -> None:
        """Add one step."""
        self.steps += 1
        self.best += float(apart.min())
        self.median += float(apart.median())
        self.norm += float(norm)

    def __str__(self) -> str:
        best, median, norm = (total / self.steps for total in (self.best, self.median, self.norm))
        return (
            f"on average over {self.steps:,} steps the gradient of the nearest candidate is {best:.3g} away from that "
            f"of the deleted records, that of the median one {median:.3g}, and no gradient at all {norm:.3g}"
        )


def check_steps(name: str, task: Task) -> None:
    """Raise UserError for Newton's method."""
    if task.training.optimizer == "newton":
        raise UserError(f"attack={name} chooses batches, and training=newton has none; use training=sgd or adam.")
