"""Adv-Sn: retraining whose batches have the nearest retained records in the places of the deleted ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.provider.neighbours import Space, nearest_retained
from attacks.provider.provider import Demand
from attacks.provider.retrain_random import check_steps
from models.plan import Plan, follow
from models.stepwise import Opening, Stepwise
from models.victim import Victim
from unlearning.provable import drawn, retained
from unlearning.task import Task


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class RetrainNearest:
    """Retrains from fresh weights, by the recipe, in the batches of a training on all records with substitutes in them.

    Every deleted record gives way to the retained one of its class that is most similar to it, by cosine, in `space`
    pixels (as published) or features (what enters the last layer of the original). The proof is genuine, since every
    step is one on retained records, but substitutes are used again and again: whoever counts how often each record is
    used sees that.

    An epoch goes over all n records, not over the r retained ones, and so has floor(n / B) steps for the floor(r / B)
    of honest retraining. With `match_steps` training stops after as many steps as honest retraining has, and the
    schedule of the learning rate is stretched over these; without, there are n / r times as many, as published. The
    last weights are released, as honest retraining does. An order chosen by a verifier is ignored.

    Source: Zhang, Chen, Shen, Li, "Verification of Machine Unlearning is Fragile", ICML 2024; features and match_steps
    are ours.
    """

    game: ClassVar[str] = "verification"
    name: ClassVar[str] = "retrain_nearest"
    trains_anew: ClassVar[bool] = True
    space: Space = "pixels"
    match_steps: bool = True

    def check(self, task: Task, deleted: int, proves: bool) -> None:
        """Raise UserError where training has no steps."""
        check_steps(self.name, task)

    def pretend(self, demand: Demand) -> Victim:
        """The retrained model; its proof has the batches with substitutes.

        Raises UserError where all records of a class are deleted.
        """
        task, deleted = demand.task, torch.tensor(demand.request.indices, dtype=torch.long)
        plan = self.plan(task, deleted)
        batches = self.batches(task, deleted, plan, demand.seed, demand.original)
        learner = Stepwise(drawn(task, demand.seed), task.training, task.records.x, demand.seed, demand.gradients)
        opening = Opening(training=task.training, steps=plan.steps, seed=demand.seed)
        label = "retraining with nearest substitutes"
        return follow(learner, task.records, plan, batches, opening, demand.recorder, label)

    def plan(self, task: Task, deleted: Tensor) -> Plan:
        """How the recipe goes over the records, the deleted ones among them."""
        left = len(retained(task, deleted))
        most = Plan(task.training, left).steps if self.match_steps else None
        return Plan(task.training, left + len(deleted), most=most)

    def batches(self, task: Task, deleted: Tensor, plan: Plan, seed: int, original: Victim) -> Iterator[Tensor]:
        """For every step the positions (B,) of its batch; a substitute stands in the place of what it replaces.

        The order is that in which training on all these records would see them, drawn from `seed`.
        """
        left = retained(task, deleted)
        instead = torch.arange(len(task.records))
        instead[deleted] = nearest_retained(task, deleted, left, self.space, original)[:, 0]
        records = torch.cat([left, deleted]).sort().values
        return (instead[batch] for batch in plan.batches(records, seed))
