"""The model that a provider releases, and naive retraining to compare it with; both kept in the store."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.provider.provider import Demand, pretended
from data.randomness import derive
from games.verification.owners import key_of_records
from models.named_tensors import digest, tensors_of, victim_of
from models.plan import follow, lengthened
from models.stepwise import Gradients, Opening, Stepwise
from models.training import train
from models.victim import Victim
from unlearning.procedure import Task
from unlearning.provable import drawn, retained

if TYPE_CHECKING:
    from games.game import Setup
    from games.verification.game import VerificationGame

CODE = ("games.verification.releasing",)


@dataclass(frozen=True, eq=False)
class Released:
    """A model with what it cost: gradient evaluations (None: nobody knows), updates of weights, seconds."""

    victim: Victim
    gradients: int | None
    updates: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Controls:
    """Naive retraining: by the recipe, with as many updates as went into the released model, and into the original."""

    naive: Released
    equal: Released
    equal_to_original: Released


def released(setup: Setup[VerificationGame], demand: Demand, ready: Callable[[], Demand]) -> Released:
    """What the provider releases. Where a proof is asked for, it is made anew; else it is taken from the store.

    `ready` completes the demand with what the provider had before it came, on which the clock does not run.
    """

    def made() -> Released:
        complete, began = ready(), perf_counter()
        victim = pretended(setup.attack, complete)
        seconds = perf_counter() - began
        gradients = demand.gradients
        return Released(victim, gradients.count if gradients.known else None, gradients.updates, seconds)

    if demand.recorder is not None or setup.procedure.irreproducible:
        return made()
    places = ["attack", "game.users", "game.records"]
    if getattr(setup.attack, "needs_log", False):  # which has checkpoints as far apart as those of a proof
        places += ["game.proof.every", "game.proof.key"]
    key = {
        **setup.keys.of(*places, code=CODE), **key_of_records(setup, demand.task), "seed": demand.seed,
        "order": demand.terms.order,
    }  # fmt: skip
    return _kept(setup, "released", key, demand.original, made)


def naive(
    setup: Setup[VerificationGame], task: Task, deleted: Tensor, seed: int, updates: int | None = None
) -> Released:
    """Retraining on what is left, from the victim's own initialisation: by the recipe, or for so many `updates`.

    The order of the records is one of its own, so that beside honest retraining the control shows what another order
    makes. With `updates` epochs are added or cut short until there are as many, and the schedule of the learning rate
    is stretched over them. With Newton's method the minimum of the retained objective.
    """

    def made() -> Released:
        gradients, began = Gradients(), perf_counter()
        if task.training.optimizer == "newton":
            weights = torch.zeros(1, len(task.records), dtype=task.records.x.dtype)
            weights[0, deleted] = 1
            victim = train(task.build, task.records, task.training, [seed], task.total(weights.to(task.records.x)))[0]
            return Released(victim, len(task.records), 0, perf_counter() - began)
        left = retained(task, deleted)
        plan = lengthened(task.training, len(left), updates)
        learner = Stepwise(drawn(task, seed), task.training, task.records.x, seed, gradients)
        opening, own = Opening(training=plan.training, steps=plan.steps, seed=seed), derive(seed, "naive")
        victim = follow(learner, task.records, plan, plan.batches(left, own), opening, label="naive retraining")
        return Released(victim, gradients.count, gradients.updates, perf_counter() - began)

    key = {
        **setup.keys.trained(CODE), **key_of_records(setup, task), "seed": seed, "updates": updates,
        "deleted": digest({"deleted": deleted}),
    }  # fmt: skip
    return _kept(setup, "oracle", key, drawn(task, seed), made)


def _kept(
    setup: Setup[Any], kind: str, key: dict[str, Any], like: Victim, made: Callable[[], Released]
) -> Released:  # fmt: skip
    def tensors() -> dict[str, Tensor]:
        found = made()
        cost = torch.tensor(
            [math.nan if found.gradients is None else found.gradients, found.updates, found.seconds],
            dtype=torch.float64,
        )
        return {**tensors_of(found.victim), "cost": cost}

    kept, _ = setup.store.tensors(kind, key, tensors)
    gradients, updates, seconds = kept["cost"].tolist()
    victim = victim_of(kept, like.module, setup.device)
    return Released(victim, None if math.isnan(gradients) else int(gradients), int(updates), seconds)
