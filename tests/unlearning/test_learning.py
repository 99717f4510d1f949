"""Plain learning: of what is left of the records, and of many seeds at once as of one after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.training import train
from tests.unlearning.recipes import RECIPES, assert_same, recipe
from unlearning.learning import plain_learning, plain_learning_many
from unlearning.task import Request


@pytest.mark.parametrize("name", RECIPES)
@settings(deadline=None, max_examples=4)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=5), st.sets(st.integers(0, 119), max_size=40))
def test_plain_learning_in_turns_is_learning_one_by_one(name: str, seeds: list[int], earlier: set[int]) -> None:
    """Whatever the seeds, some of them the same, and whatever was forgotten before."""
    these, repeated = recipe(name), [*seeds, seeds[0]]
    if earlier:
        these = these.without(Request(tuple(earlier)))
    assert_same(plain_learning_many(these, repeated), [plain_learning(these, seed) for seed in repeated])


@pytest.mark.parametrize("name", RECIPES)
def test_what_was_forgotten_before_is_not_learned(name: str) -> None:
    """Other inputs and labels in the place of these records give the same model; without deletions another one."""
    task = recipe(name)
    these = replace(task, records=task.records[torch.arange(120)])  # laid out alike, for sums in the same order
    gone, other = these.without(Request((0, 50, 119))), these.records[torch.arange(120)]
    other.x[[0, 50, 119]] += 1
    other.y[[0, 50, 119]] = (other.y[[0, 50, 119]] + 1) % 10
    assert gone.forgotten is not None
    assert_same([plain_learning(gone, 0)], [plain_learning(replace(gone, records=other), 0)])
    assert not torch.equal(plain_learning(gone, 0).flat(), plain_learning(these, 0).flat())
    assert_same([plain_learning(these, 0)], train(these.build, these.records, these.training, [0]))


def test_no_seed_gives_no_victim() -> None:
    assert plain_learning_many(recipe("sgd"), []) == []
