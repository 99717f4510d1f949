"""What the tests of attacks share: testbeds that are drawn once, and what a set of requests did to its targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from attacks.crafting.access import Access
from attacks.crafting.attack import Attack, AttackGoal, AttackResult
from data.randomness import generator
from models.victim import ModelStack
from tests.testbed import Testbed, testbed
from unlearning.procedure import Procedure, as_weights
from unlearning.retrain import Retrain
from unlearning.service import Meter, OpenService, Service, serve

OVER, UNDER = (-1, 0.45, 0.65), (1, 0.75, 0.95)  # direction and band of confidence of the targets


@cache
def bed(seed: int) -> Testbed:
    return testbed(seed)


def opened(of: Testbed, procedure: Procedure | None = None) -> OpenService:
    return OpenService(of.task, procedure or Retrain(), (of.victim,), (of.seed,))


def closed(of: Testbed, procedure: Procedure, budget: int, feedback: str = "score") -> tuple[Service, Meter]:
    meter = Meter()
    provider = OpenService(of.task, procedure, (of.victim,), (of.seed,), meter)
    return serve(provider, budget, feedback), meter  # type: ignore[arg-type]


def crafted(attack: Attack, of: Testbed, goals: Sequence[AttackGoal], pool: Tensor | None = None) -> list[AttackResult]:
    """The requests of an attack against exact retraining, with the access that it claims."""
    black = attack.access == "black_box"
    accesses: list[Access] = [closed(of, Retrain(), 1)[0] for _ in goals] if black else [opened(of)]
    return attack.craft(accesses, goals, of.attacker(pool), generator(of.seed, "attack"))


def unlearned(of: Testbed, requests: Sequence[AttackResult], procedure: Procedure | None = None) -> ModelStack:
    """The models after each request, by exact retraining unless said otherwise."""
    rows = as_weights([each.request for each in requests], of.task.records)
    return (procedure or Retrain()).forget(of.task, of.victim, rows, of.seed)


def on_goals(models: ModelStack, goals: Sequence[AttackGoal]) -> Tensor:
    """Probabilities (m, K) of model i on the first target of goal i."""
    return torch.stack([models[i].probabilities(goal.x)[0] for i, goal in enumerate(goals)])


def labels(goals: Sequence[AttackGoal]) -> Tensor:
    return torch.stack([goal.labels[0] for goal in goals])


def before(of: Testbed, goals: Sequence[AttackGoal]) -> Tensor:
    """Probabilities (m, K) of the victim on the first target of each goal."""
    return torch.cat([of.victim.probabilities(goal.x[:1]) for goal in goals])


def confidence_change(of: Testbed, goals: Sequence[AttackGoal], models: ModelStack) -> tuple[Tensor, Tensor]:
    """Change of the probability of each target's label, and whether the label was kept, both (m,)."""
    now, label = on_goals(models, goals), labels(goals)
    change = now.gather(1, label[:, None]) - before(of, goals).gather(1, label[:, None])
    return change[:, 0], now.argmax(1) == label


def accuracy(models: ModelStack, of: Testbed) -> float:
    return float((models.logits(of.test.x).argmax(-1) == of.test.y).double().mean())
