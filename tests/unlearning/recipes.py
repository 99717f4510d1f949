"""Small tasks, one for each way in which a model is learned, and whether two lists of models are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from data.digits import Digits
from data.examples import Examples
from models.logistic import Logistic
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.training import Training
from models.victim import Victim
from tests.unlearning.test_every_procedure import everything
from unlearning.task import Task

DATA = Digits(train=120, test=1377).load()
NETWORK = partial(MLP, shape=DATA.shape, classes=10, widths=[7])
SGD = Training(epochs=2, batch_size=33)
RECIPES: dict[str, tuple[Any, Training]] = {
    "sgd": (NETWORK, SGD),
    "adam": (NETWORK, replace(SGD, optimizer="adam", lr=1e-3)),
    "dropout": (partial(NETWORK, dropout=0.3), SGD),
    "convolutions": (partial(SmallCNN, shape=DATA.shape, classes=10, widths=[3], norm="group"), SGD),
    "batch-norm": (partial(SmallCNN, shape=DATA.shape, classes=10, widths=[3], norm="batch"), SGD),
    "newton": (partial(Logistic, shape=(6,), classes=10), Training(optimizer="newton", weight_decay=0.1)),
    "small stacks": (NETWORK, replace(SGD, together=2)),
}


def recipe(name: str) -> Task:
    build, training = RECIPES[name]
    few = Examples(DATA.train.x.flatten(1)[:, 10:16], DATA.train.y)  # for a logistic model with few parameters
    return Task(few if name == "newton" else DATA.train, build, training)


def assert_same(some: Sequence[Victim], others: Sequence[Victim]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        left, right = everything(one), everything(other)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
