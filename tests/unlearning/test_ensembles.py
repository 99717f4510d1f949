"""Many victims at once are what one after the other gives, bit by bit: one request for each."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.victim import Victim
from tests.models.test_mask import a_mask
from tests.unlearning.recipes import RECIPES, assert_same, recipe
from tests.unlearning.test_every_procedure import NAMES, task
from tests.unlearning.test_identity import derived
from unlearning.retrain import Retrain
from unlearning.task import Request, as_weights


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
