from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attacks.provider.neighbours import nearest_retained
from attacks.provider.provider import pretended
from attacks.provider.retrain_nearest import RetrainNearest
from data.digits import Digits
from data.errors import UserError
from data.examples import Data, Examples
from models.logistic import Logistic
from models.plan import Plan
from models.training import Training
from proofs.reader import open_proof
from proofs.replay import replay
from proofs.terms import Terms
from tests.attacks.provider.logged import writer
from tests.attacks.provider.test_retrain_random import RECIPE, Taken, demand_of
from unlearning.procedure import Request, Task
from unlearning.provable import retained


@pytest.fixture(scope="module")
def data() -> Data:
    return Digits().load()


@pytest.mark.parametrize("space", ["pixels", "features"])
def test_batches_are_those_of_the_original_with_the_nearest_in_the_places_of_the_deleted(
    data: Data, space: str
) -> None:
    taken = Taken()
    asked = demand_of(data, recorder=taken)
    RetrainNearest(space=space, match_steps=False).pretend(asked)  # type: ignore[arg-type]
    gone = torch.tensor(asked.request.indices)
    near = nearest_retained(asked.task, gone, retained(asked.task, gone), space, asked.original)[:, 0]  # type: ignore[arg-type]
    instead = dict(zip(gone.tolist(), near.tolist(), strict=True))
    plain = list(Plan(RECIPE, len(data.train)).batches(torch.arange(len(data.train)), asked.seed))
    assert len(taken.batches) == len(plain)
    for ours, original in zip(taken.batches, plain, strict=True):
        assert ours.tolist() == [instead.get(each, each) for each in original.tolist()]


def test_what_was_forgotten_before_is_neither_used_nor_a_substitute(data: Data) -> None:
    forgotten = torch.zeros(len(data.train))
    forgotten[::3] = 1
    taken = Taken()
    asked = demand_of(data, forgotten=forgotten, recorder=taken, deleted=100)
    RetrainNearest().pretend(asked)
    used = torch.cat(taken.batches)
    assert not bool(forgotten[used].any())
    assert not bool(torch.isin(used, torch.tensor(asked.request.indices)).any())


def steps_of(n: int, deleted: int, batch: int, match: bool) -> tuple[Plan, Plan]:
    """The plans of this provider and of honest retraining."""
    records = Examples(torch.zeros(n, 1), torch.zeros(n, dtype=torch.long))
    recipe = Training(epochs=30, batch_size=batch, schedule="cosine")
    task = Task(records, partial(Logistic, shape=(1,), classes=2), recipe)
    return RetrainNearest(match_steps=match).plan(task, torch.arange(deleted)), Plan(recipe, n - deleted)


def test_there_are_as_many_steps_as_of_honest_retraining_or_as_of_the_original() -> None:
    """With 38,000 retained of 48,000 in batches of 128: 296 steps an epoch, and 375 as published."""
    ours, honest = steps_of(48_000, 10_000, 128, match=False)
    assert (ours.per_epoch, ours.steps) == (375, 30 * 375)
    assert (honest.per_epoch, honest.steps) == (296, 30 * 296)
    matched, _ = steps_of(48_000, 10_000, 128, match=True)
    assert (matched.per_epoch, matched.steps) == (375, 30 * 296)
    assert [matched.lr(step) for step in range(0, 8880, 100)] == [honest.lr(step) for step in range(0, 8880, 100)]
    assert len(list(matched.batches(torch.arange(48_000), 0))) == 30 * 296


def test_a_budget_of_steps_ends_within_an_epoch(data: Data) -> None:
    taken = Taken()
    asked = demand_of(data, recorder=taken)
    RetrainNearest().pretend(asked)
    honest = Plan(RECIPE, len(data.train) - len(asked.request))
    assert len(taken.batches) == taken.opening.steps == honest.steps == asked.gradients.updates
    assert asked.gradients.count == honest.steps * RECIPE.batch_size


@pytest.mark.parametrize("match", [True, False])
def test_the_proof_is_genuine(data: Data, match: bool, tmp_path: Path) -> None:
    """Every step replays to the last bit, and none of its batches has a deleted record."""
    asked = demand_of(data, replace(RECIPE, schedule="cosine"))
    gone = torch.tensor(asked.request.indices)
    asked = replace(asked, recorder=writer(asked.task, asked.original, tmp_path / "proof", gone))
    released = pretended(RetrainNearest(match_steps=match), asked)
    proof = open_proof(tmp_path / "proof")
    found = replay(proof, data.train, released)
    assert proof.complete
    assert (max(found.weights), max(found.moments), found.damaged) == (0.0, 0.0, None)
    steps = list(proof.read())
    assert not any(bool(torch.isin(step.batch, gone).any()) for step in steps)
    assert torch.equal(steps[-1].state.weights, released.flat())  # type: ignore[union-attr]


def off(batches: list[Tensor], left: Tensor) -> float:
    """The share of retained records that are not used exactly once."""
    used = torch.bincount(torch.cat(batches), minlength=int(left.max()) + 1)[left]
    return float((used != 1).double().mean())


def test_substitutes_are_used_again_and_again(data: Data) -> None:
    """What counting sees: with a fifth deleted, more than 15% of what is left is not used once in the first epoch."""
    taken = Taken()
    asked = demand_of(data, recorder=taken)
    RetrainNearest(match_steps=False).pretend(asked)
    left = retained(asked.task, torch.tensor(asked.request.indices))
    epoch = taken.batches[: len(data.train) // RECIPE.batch_size]
    assert off(epoch, left) >= 0.15
    assert int(torch.bincount(torch.cat(epoch)).max()) >= 3


def test_it_ignores_an_order(data: Data) -> None:
    one, told = Taken(), Taken()
    RetrainNearest().pretend(demand_of(data, recorder=one))
    RetrainNearest().pretend(demand_of(data, recorder=told, terms=Terms(order=7)))
    assert all(torch.equal(a, b) for a, b in zip(one.batches, told.batches, strict=True))


def test_what_it_cannot_do_is_refused(data: Data) -> None:
    task = demand_of(data).task
    RetrainNearest().check(task, 10, True)
    with pytest.raises(UserError, match="attack=retrain_nearest chooses batches"):
        RetrainNearest().check(replace(task, training=Training(optimizer="newton")), 10, False)
    whole = tuple((data.train.y == 3).nonzero()[:, 0].tolist())
    with pytest.raises(UserError, match="Of class 3 no record would be left"):
        RetrainNearest().pretend(replace(demand_of(data), request=Request(whole)))


def test_seeds_share_nothing_but_the_records(data: Data) -> None:
    one, other = Taken(), Taken()
    RetrainNearest().pretend(demand_of(data, recorder=one))
    RetrainNearest().pretend(replace(demand_of(data, recorder=other), seed=1))
    assert not torch.equal(one.start.weights, other.start.weights)
    assert not torch.equal(one.batches[0], other.batches[0])
