"""Problems for the tests of the certified procedures, small, or with digits."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from data.examples import Examples
from data.randomness import generator
from models.gradients import objective_gradient
from models.logistic import Logistic
from models.mlp import MLP
from models.solver import Solver
from models.training import Training
from models.victim import Victim
from unlearning.certified_removal import CertifiedRemoval
from unlearning.procedure import Task, plain_learning

EXACT = Solver(method="dense", tolerance=1e-12)
HESSIAN = Solver(method="dense", tolerance=1e-12, curvature="hessian")
N, DECAY, DELTA = 60, 0.01, 1e-5
RECIPE = Training(epochs=4, batch_size=20, lr=0.2, weight_decay=DECAY)


@cache
def small(dtype: torch.dtype = torch.float64, model: Any = MLP) -> Task:
    """60 random records of 5 features and 3 classes, and a small network trained by a few epochs of SGD."""
    rng = generator(0, "records")
    x = torch.randn(N, 5, generator=rng, dtype=torch.float64).to(dtype)
    records = Examples(x, torch.randint(3, (N,), generator=rng))
    options = {"widths": [4]} if model is MLP else {}
    return Task(records, partial(model, shape=(5,), classes=3, **options), RECIPE)


def rows(*requests: tuple[int, ...]) -> Tensor:
    """A row of deletion weights of the small task for each request."""
    deleted = torch.zeros(len(requests), N, dtype=torch.float64)
    for row, request in zip(deleted, requests, strict=True):
        row[list(request)] = 1
    return deleted


class Binary(nn.Module):
    """Logits (0, <w, x>): binary logistic regression without intercept."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.linear(x)
        return torch.cat([torch.zeros_like(z), z], dim=1)


@cache
def three_or_eight() -> tuple[Task, Task, Victim, Victim, Tensor]:
    """Digits 3 against 8, unit rows, weight decay 0.01, 20 of 357 removed: both tasks, both minima, the deletions."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    chosen = (bunch.target == 3) | (bunch.target == 8)
    x = torch.from_numpy(bunch.images[chosen]).flatten(1)
    y = torch.from_numpy(bunch.target[chosen] == 8).long()
    training = Training(optimizer="newton", weight_decay=0.01, tolerance=1e-14)
    task = Task(Examples(x / x.norm(dim=1, keepdim=True), y), Binary, training)
    gone = torch.zeros(len(y), dtype=torch.float64)
    gone[torch.randperm(len(y), generator=generator(0, "removed"))[:20]] = 1
    after = replace(task, forgotten=gone)
    return task, after, plain_learning(task, 0), plain_learning(after, 0), gone


@cache
def digits(decay: float) -> Task:
    """Digits 3 against 8, rows of norm 1 (with the constant feature sqrt 2), float64: n = 357."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    chosen = (bunch.target == 3) | (bunch.target == 8)
    x = torch.from_numpy(bunch.images[chosen]).flatten(1)
    y = torch.from_numpy(bunch.target[chosen] == 8).long()
    training = Training(optimizer="newton", weight_decay=decay, tolerance=1e-14)
    return Task(Examples(x / x.norm(dim=1, keepdim=True), y), partial(Logistic, shape=(64,), classes=2), training)


def first(count: int, task: Task) -> Tensor:
    """One row that deletes `count` random records."""
    n = len(task.records)
    row = torch.zeros(1, n, dtype=torch.float64)
    row[0, torch.randperm(n, generator=generator(0, "removed"))[:count]] = 1
    return row


def removal(**options: Any) -> CertifiedRemoval:
    """Certified removal with noise from the seed and an exact solver."""
    return CertifiedRemoval(**{"noise": "derived", "solver": EXACT, **options})


def perturbed_slope(task: Task, model: Victim, deleted: Tensor) -> Tensor:
    """grad of n F + <b, theta>, by the models' own gradients, shape (p,)."""
    slope = objective_gradient(model, task.records, deleted, task.training.weight_decay)[0]
    return len(task.records) * slope + model.ledger["noise"]


def one(record: int) -> Tensor:
    """A row that deletes this record of the digits."""
    row = torch.zeros(1, 357, dtype=torch.float64)
    row[0, record] = 1
    return row
