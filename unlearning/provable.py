"""Procedures that can write down how they forget, step by step, so that others can check it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from models.plan import Plan, follow
from models.stepwise import Gradients, Opening, Recorder, Stepwise
from models.training import Training, initialise
from models.victim import Victim
from unlearning.task import Task


@dataclass(frozen=True, eq=False)
class Account:
    """How a run of forgetting is to be accounted for.

    `recorder` takes its steps down; `order` is the seed of the order of the retained records, where a verifier chose
    it; `gradients` counts gradient evaluations.
    """

    recorder: Recorder | None = None
    order: int | None = None
    gradients: Gradients = field(default_factory=Gradients)


@runtime_checkable
class Provable(Protocol):
    """A procedure all of whose forgetting is minibatch descent on the retained records."""

    def forget_provably(self, task: Task, victim: Victim, deleted: Tensor, seed: int, account: Account) -> Victim:
        """The model after the records at positions `deleted` (d,) were forgotten from `victim`; no batch has them."""
        ...


def in_steps(procedure: object, task: Task) -> Provable | None:
    """The procedure where it forgets in steps that can be written down; None where not, as by Newton's method."""
    if not isinstance(procedure, Provable):
        return None
    own = getattr(procedure, "recipe", None)
    recipe = own(task) if callable(own) else task.training
    return None if recipe.optimizer == "newton" else procedure


def retained(task: Task, deleted: Tensor) -> Tensor:
    """The positions (r,) of the records that are neither `deleted` now nor forgotten before, in their order."""
    kept = torch.ones(len(task.records), dtype=torch.bool)
    kept[deleted.cpu()] = False
    if task.forgotten is not None:
        kept &= task.forgotten.cpu() == 0
    return kept.nonzero()[:, 0]


def drawn(task: Task, seed: int) -> Victim:
    """An untrained model, drawn from `seed`."""
    return Victim(*initialise(task.build, seed, task.records.x))


def descended(
    task: Task, start: Victim, training: Training, deleted: Tensor, seed: int, account: Account, begins: str = "seed"
) -> Victim:
    """Minibatch descent from `start` on the mean loss of the retained records alone, plus (lambda/2) ||theta||^2.

    Every epoch goes over the retained records in an order drawn from `seed`, or from the verifier's, in whole batches:
    the tail that does not fill one is dropped, so that every step of a proof is like every other. The mean is over the
    retained records of a batch, where `Retrain.forget` keeps the batches of the original and gives deleted records the
    weight 0. Raises `models.descent.Diverged`.
    """
    left = retained(task, deleted)
    plan = Plan(training, len(left))
    learner = Stepwise(start, training, task.records.x, seed, account.gradients)
    batches = plan.batches(left, seed if account.order is None else account.order)
    opening = Opening(training=training, steps=plan.steps, seed=seed, begins=begins)
    return follow(learner, task.records, plan, batches, opening, account.recorder)
