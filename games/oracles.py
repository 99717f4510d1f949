"""Retrained models and margins of models, kept in the store for every game that asks for them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from data.examples import Examples
from metrics.margins import margins
from models.named_tensors import digest, ensemble_of, tensors_of
from models.training import initialise, train
from models.victim import ModelStack, Victim

if TYPE_CHECKING:
    from games.game import Setup

CODE = ("games.oracles",)


def oracles(setup: Setup[Any], forget_weights: Tensor, seed: int, slow: float = 0.0) -> ModelStack:
    """Models that never knew: trained plainly with `seed` and each row of `forget_weights` (m, n), 1 = deleted.

    What is deleted before counts too. The rows are trained together and kept together, by data, model, training, seed
    and the rows, whatever procedure they are compared with; those that took less than `slow` seconds are not kept.
    """
    task = setup.task
    weights = task.total(forget_weights)
    key = {**setup.keys.trained(CODE), "seed": seed, "forgotten": digest({"weights": weights})}
    found = setup.store.find_tensors("oracle", key)
    if found is not None:
        return ensemble_of(found[1], Victim(*initialise(task.build, seed, task.records.x)))
    began = perf_counter()
    models = train(task.build, task.records, task.training, [seed] * len(weights), weights, label="retraining")
    if perf_counter() - began >= slow:
        setup.store.keep_tensors("oracle", key, tensors_of(models))
    return models


def kept_margins(
    setup: Setup[Any], models: Mapping[str, Any], points: Examples, logits: Callable[[], Tensor]
) -> Tensor:
    """The margins (m, n) of m models at n points, float32, on the CPU; `logits` (m, n, K) are asked for once.

    `models` is what determines the models beside data, model, training and machine: their procedure, seeds, requests.
    The key holds a hash of the points in the order of their rows.
    """
    rows = digest({"x": points.x, "y": points.y})
    key = {**setup.keys.trained(CODE), "models": dict(models), "rows": rows}
    return setup.store.tensors("margins", key, lambda: {"margins": margins(logits(), points.y)})[0]["margins"]
