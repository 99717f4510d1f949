"""Retraining by both providers, beside the original and naive retraining, all alike but for the records they see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.provider.provider import Demand
from attacks.provider.retrain_nearest import RetrainNearest
from attacks.provider.retrain_random import RetrainRandom
from data.examples import Data, Examples
from data.randomness import generator
from models.plan import Plan, follow
from models.stepwise import Opening, Stepwise
from models.training import Build, Training
from models.victim import Victim
from tests.attacks.provider.test_retrain_random import Taken
from unlearning.procedure import Request, Task
from unlearning.provable import Account, descended, drawn
from unlearning.retrain import Retrain


@dataclass(frozen=True, eq=False)
class Runs:
    """The original, naive retraining and both providers, of one seed, with the batches of the latter three."""

    task: Task
    deleted: Tensor
    models: Mapping[str, Victim]
    batches: Mapping[str, list[Tensor]]
    gaps: Tensor  # (steps, candidates)
    wanted: Tensor  # (steps,): ||g_u||

    def accuracy(self, name: str, examples: Examples) -> float:
        """In points."""
        return 100 * float((self.models[name].logits(examples.x).argmax(1) == examples.y).double().mean())


def demand_of(task: Task, deleted: Tensor, seed: int, **others: Any) -> Demand:
    return Demand(
        task=task, original=others.pop("original", drawn(task, seed)), request=Request(tuple(deleted.tolist())),
        procedure=Retrain(), auxiliary=task.records[:1], seed=seed, **others,
    )  # fmt: skip


def run_all(data: Data, build: Build, n: int, count: int, recipe: Training, seed: int) -> Runs:
    """`n` records drawn from the training file, of which `count` are deleted."""
    order = torch.randperm(len(data.train), generator=generator(seed, "records"))[:n].sort().values
    task = Task(data.train[order], build, recipe)
    deleted = torch.randperm(n, generator=generator(seed, "deleted"))[:count]
    plan = Plan(recipe, n)
    learner = Stepwise(drawn(task, seed), recipe, task.records.x, seed)
    opening = Opening(training=recipe, steps=plan.steps, seed=seed)
    original = follow(learner, task.records, plan, plan.batches(torch.arange(n), seed), opening)
    taken = {name: Taken() for name in ("naive", "nearest", "random")}
    naive = descended(task, drawn(task, seed), recipe, deleted, seed, Account(taken["naive"]))
    asked = demand_of(task, deleted, seed, original=original, recorder=taken["nearest"])
    nearest = RetrainNearest().pretend(asked)
    gaps: list[Tensor] = []
    wanted: list[Tensor] = []
    asked = replace(asked, recorder=taken["random"])
    random = RetrainRandom().retrained(asked, lambda apart, norm: (gaps.append(apart), wanted.append(norm)))  # type: ignore[func-returns-value]
    models = {"original": original, "naive": naive, "nearest": nearest, "random": random}
    batches = {name: each.batches for name, each in taken.items()}
    return Runs(task, deleted, models, batches, torch.stack(gaps), torch.stack(wanted))
