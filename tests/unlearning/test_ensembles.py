"""Many victims at once are what one after the other gives, bit by bit: learning, and one request for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.digits import Digits
from data.examples import Examples
from models.logistic import Logistic
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.training import Training
from models.victim import Victim
from tests.models.test_mask import a_mask
from tests.unlearning.test_every_procedure import NAMES, everything, task
from tests.unlearning.test_identity import derived
from unlearning.retrain import Retrain
from unlearning.task import Request, Task, as_weights

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


@pytest.mark.parametrize("name", RECIPES)
@settings(deadline=None, max_examples=4)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=5), st.sets(st.integers(0, 119), max_size=40))
def test_plain_learning_in_turns_is_learning_one_by_one(name: str, seeds: list[int], earlier: set[int]) -> None:
    """Whatever the seeds, some of them the same, and whatever was forgotten before."""
    these, repeated = recipe(name), [*seeds, seeds[0]]
    if earlier:
        these = these.without(Request(tuple(earlier)))
    assert_same(Retrain().learn_many(these, repeated), [Retrain().learn(these, seed) for seed in repeated])


@cache
def victims(name: str, pruned: bool) -> list[Victim]:
    learned = [Retrain().learn(recipe(name), seed) for seed in (3, 4, 4)]
    return [replace(model, mask=a_mask(model, j)) for j, model in enumerate(learned)] if pruned else learned


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("name", RECIPES)
@settings(deadline=None, max_examples=2)
@given(st.lists(st.sets(st.integers(0, 119), min_size=1, max_size=30), min_size=3, max_size=3))
def test_retraining_in_turns_is_retraining_one_by_one(name: str, pruned: bool, requests: list[set[int]]) -> None:
    these, models, seeds = recipe(name), victims(name, pruned), [3, 9, 9]
    rows = as_weights([Request(tuple(each)) for each in requests], these.records)
    expected = [Retrain().forget(these, models[j], rows[j, None], seeds[j])[0] for j in range(3)]
    assert_same(Retrain().forget_many(these, models, rows, seeds), expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_procedure_learns_and_forgets_many(name: str) -> None:
    of, these, seeds = derived(name), task(name), [0, 1]
    models = of.learn_many(these, seeds)
    assert_same(models, [of.learn(these, seed) for seed in seeds])
    rows = as_weights([Request((3, 17)), Request((40,))], these.records)
    expected = [of.forget(these, models[j], rows[j, None], seeds[j])[0] for j in range(2)]
    assert_same(of.forget_many(these, models, rows, seeds), expected)


@pytest.mark.parametrize("name", ["retrain", "first_order"])
def test_each_victim_has_one_request_and_one_seed(name: str) -> None:
    of, these = derived(name), task("retrain")
    assert of.learn_many(these, []) == []
    assert of.forget_many(these, [], torch.zeros(0, 200), []) == []
    models = of.learn_many(these, [0, 1])
    with pytest.raises(ValueError, match=r"zip|3 requests"):
        of.forget_many(these, models, torch.zeros(3, 200), [0, 1])
