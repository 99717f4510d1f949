"""What the tests of filters share: batches of the Gaussian testbed, benign or with an attack among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from attacks.crafting.attack import AttackGoal, AttackResult
from attacks.crafting.functionals import LogitGap, margins
from attacks.requester.one_shot_influence import OneShotInfluence
from data.randomness import generator
from defenses.defense import Calibration, Context
from models.curvature import dense, gauss_newton
from models.solver import Solver
from models.victim import ModelStack
from tests.attacks.checks import bed, crafted, labels, on_goals
from tests.testbed import LAMBDA, TRAINING, Testbed
from unlearning.retrain import Retrain

EXACT = Solver(tolerance=1e-13)
ALPHA, SIZE = 0.05, 60  # false-positive rate, and requests in a batch


def rows(batches: Sequence[Tensor]) -> Tensor:
    weights = torch.zeros(len(batches), TRAINING, dtype=torch.float64)
    for row, batch in zip(weights, batches, strict=True):
        row[batch] = 1
    return weights


def benign(seed: int, name: str, count: int, size: int = SIZE) -> list[Tensor]:
    rng = generator(seed, name)
    return [torch.randperm(TRAINING, generator=rng)[:size] for _ in range(count)]


def context(of: Testbed, batch: Tensor, calibration: Sequence[Calibration] = ()) -> Context:
    candidate = Retrain().forget(of.task, of.victim, rows([batch]), of.seed)[0]
    return Context(of.task, of.victim, candidate, of.trusted, calibration)


def calibrated(of: Testbed, batches: Sequence[Tensor]) -> list[Calibration]:
    models = Retrain().forget(of.task, of.victim, rows(batches), of.seed)
    return [Calibration(batch, models[i]) for i, batch in enumerate(batches)]


def curvature(of: Testbed) -> Tensor:
    """H of the sum-form objective, sum_i H_i + Lambda I, as a matrix."""
    kept = torch.zeros(33, TRAINING, dtype=torch.float64)
    start = of.victim.moved(torch.zeros(33, 33, dtype=torch.float64))
    product = gauss_newton(start, of.task.records, kept, LAMBDA / TRAINING)
    return TRAINING * dense(lambda block: product(block)[: len(block)], 33, of.victim.flat())


@dataclass(frozen=True, eq=False)
class Attacked:
    """Streams of 15 one-shot margin requests + 45 random ones, and the models after each of them."""

    of: Testbed
    goals: Sequence[AttackGoal]
    requests: Sequence[AttackResult]
    batches: Sequence[Tensor]
    models: ModelStack
    calibration: Sequence[Calibration]
    malicious: Tensor  # (60,), the same in every stream

    def context(self, number: int) -> Context:
        return Context(self.of.task, self.of.victim, self.models[number], self.of.trusted, self.calibration)

    def flipped(self, left: Sequence[Tensor]) -> Tensor:
        """Whether each target has lost its label once `left` was deleted, of one batch for each."""
        models = Retrain().forget(self.of.task, self.of.victim, rows(left), self.of.seed)
        return margins(on_goals(models, self.goals).log(), labels(self.goals)) < 0


@cache
def attacked(seed: int, cap: float | None, targets: int = 8) -> Attacked:
    of = bed(seed)
    goals = of.goals(of.targets(targets), 1)
    requests = crafted(OneShotInfluence(budget=15, functional=LogitGap(), norm_cap=cap), of, goals)
    rng, streams = generator(seed, "cover"), []
    for each in requests:
        malicious = torch.tensor(each.request.indices)
        others = torch.randperm(TRAINING, generator=rng)
        others = others[~torch.isin(others, malicious)][:45]
        streams.append(torch.cat([malicious, others]))
    mixed = Retrain().forget(of.task, of.victim, rows(streams), seed)
    calibration = calibrated(of, benign(seed, "calibration", 8))
    return Attacked(of, goals, requests, streams, mixed, calibration, torch.arange(SIZE) < 15)
