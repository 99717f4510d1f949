"""Forgetting from a pruned victim leaves it as sparse as it was, whatever the procedure."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from data.errors import UserError
from models.training import Training, train
from models.victim import Victim, stack
from tests.models.test_mask import a_mask, keeps_its_zeros, left
from tests.unlearning.test_every_procedure import NAMES, procedure, row, task, victim
from unlearning.procedure import Procedure, Request, forget, unlearned
from unlearning.retrain import Retrain
from unlearning.sisa import Sisa

PRUNABLE = sorted(set(NAMES) - {"certified_removal"})  # which proves something about all parameters


@cache
def sparse(name: str, seed: int = 0) -> Victim:
    return replace(victim(name), mask=a_mask(victim(name), seed))


@pytest.mark.parametrize("name", PRUNABLE)
@settings(deadline=None, max_examples=3, phases=[Phase.generate])  # each factors two curvatures
@given(st.sets(st.integers(0, 199), min_size=1, max_size=30), st.integers(0, 1))
def test_forgetting_keeps_the_mask(name: str, records: set[int], seed: int) -> None:
    """Also in a second request; and what is left does move."""
    of, model = procedure(name), sparse(name, seed)
    first, second = Request(tuple(sorted(records))), Request(tuple(i for i in (7, 50, 120) if i not in records))
    once = forget(of, task(name), model, first, seed)
    twice = forget(of, task(name).without(first), once, second, seed)
    for after in (once, twice):
        assert keeps_its_zeros(after, model.mask)
        assert all(torch.equal(after.mask[key], value) for key, value in model.mask.items())
    if name != "gradient_ascent":  # which stops where the loss is at its cap already
        assert bool((once.flat() != model.flat())[left(model)].any())


@pytest.mark.parametrize("options", [{"repair_epochs": 1}, {"order": "first"}, {"curvature_of": "original"}], ids=str)
def test_other_ways_to_forget_keep_the_mask(options: dict[str, Any]) -> None:
    name = "amnesiac" if "repair_epochs" in options else "influence_replacement"
    of: Any = procedure(name)
    model = sparse(name)
    models = unlearned(replace(of, **options), task(name), model, row(3, 17, 40), 0)
    assert keeps_its_zeros(models, model.mask)


def test_certified_removal_refuses_a_pruned_model() -> None:
    with pytest.raises(UserError, match="this model is pruned"):
        forget(procedure("certified_removal"), task("certified_removal"), sparse("certified_removal"), Request((3,)), 0)


@pytest.mark.parametrize("name", ["retrain", "sisa"])
def test_exact_unlearning_is_learning_with_the_mask_from_the_start(name: str) -> None:
    """Whatever the victim's parameters are where it is touched, and for many requests at once as for one."""
    of, model = procedure(name), sparse(name)
    other = replace(model, parameters={key: value + 1 for key, value in model.parameters.items()})
    rows = torch.cat([torch.ones(1, 200) - row(0), row(3, 17)])
    both = [of.forget(task(name), each, rows, 0) for each in (model, other)]
    assert torch.equal(both[0].flat()[0], both[1].flat()[0])  # a request that touches every shard from its start
    alone = of.forget(task(name), model, rows[1:], 0)
    torch.testing.assert_close(alone.flat()[0], both[0].flat()[1], rtol=1e-4, atol=1e-5)


def test_a_procedure_that_loses_the_mask_is_named() -> None:
    class Loses(Procedure):
        def forget(self, task: Any, victim: Victim, forget_weights: Any, seed: int, submitted: Any = None) -> Any:
            return replace(victim, mask={}).copies(len(forget_weights))

    with pytest.raises(UserError, match=r"Loses: forget\(\) lost the victim's pruning mask"):
        unlearned(Loses(), task("retrain"), sparse("retrain"), row(1), 0)


@pytest.mark.parametrize("name", ["sisa", "amnesiac", "unrolling_sgd"])
def test_victims_with_histories_of_their_own_do_not_stack(name: str) -> None:
    """All but the first would forget from the history of the first."""
    of: Any = replace(procedure(name), shards=2, slices=2) if name == "sisa" else procedure(name)  # type: ignore[type-var]
    these = replace(task(name), training=Training(epochs=1))
    victims = [of.learn(these, seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="histories of their own"):
        stack(victims)
    bare = stack([replace(each, history={}) for each in victims])
    x = these.records.x[:5]
    torch.testing.assert_close(bare.logits(x)[1], victims[1].logits(x), rtol=1e-4, atol=1e-5)
    same = stack([victims[0], victims[0].clone()])
    assert same.history is victims[0].history
    twin = replace(victims[0], history={key: value.clone() for key, value in victims[0].history.items()})
    assert len(stack([victims[0], twin])) == 2


def test_plain_victims_stack() -> None:
    these = task("retrain")
    models = train(these.build, these.records, replace(these.training, epochs=1), [0, 1])
    assert torch.equal(stack([models[0], models[1]]).flat(), models.flat())
    assert isinstance(procedure("sisa"), Sisa)
    assert isinstance(procedure("retrain"), Retrain)
