"""Amnesiac unlearning against a record of the steps that the test keeps itself; its gradient against differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unlearning.amnesiac
from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.learner import Batch
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.training import Training, initialise, train
from models.victim import Victim, flatten
from tests.testbed import TRAINING, testbed
from tests.unlearning.test_operators import loss_and_slopes
from unlearning.amnesiac import Amnesiac
from unlearning.fine_tune import FineTune
from unlearning.procedure import Request, Task, as_weights, forget, plain_learning

N, SEED = 23, 4
MOMENTUM = Training(epochs=3, batch_size=5, lr=0.1)
RECIPES = {
    "sgd": replace(MOMENTUM, momentum=0.0, schedule="constant"),
    "momentum": MOMENTUM,
    "adam": replace(MOMENTUM, optimizer="adam", lr=0.01),
}
MLP_: tuple[Callable[[], nn.Module], tuple[int, ...]] = (partial(MLP, shape=(6,), classes=3, widths=[5]), (6,))
BATCH_NORM = (partial(SmallCNN, shape=(1, 4, 4), classes=3, widths=[2], norm="batch"), (1, 4, 4))
A, B = Request((3, 11)), Request((0, 7, 12))


def task(training: Training = MOMENTUM, build: Any = MLP_) -> Task:
    rng = generator(0, "records")
    x = torch.randn(N, *build[1], generator=rng, dtype=torch.float64)
    return Task(Examples(x, torch.randint(3, (N,), generator=rng)), build[0], training)


@dataclass(frozen=True, eq=False)
class Recorded:
    """Initial parameters, and every step's change and set of records, recorded by the test."""

    start: Tensor
    updates: list[Tensor]
    batches: list[set[int]]
    end: Tensor

    def without(self, indices: Sequence[int]) -> Tensor:
        kept = [u for u, batch in zip(self.updates, self.batches, strict=True) if not batch & set(indices)]
        return self.start + sum(kept, torch.zeros_like(self.start))


def recorded(of: Task) -> Recorded:
    before, batches = [flatten(initialise(of.build, SEED, of.records.x)[1])], []

    def watch(batch: Batch, values: Sequence[Tensor]) -> None:
        before.append(torch.cat([value.detach().clone().reshape(-1) for value in values]))
        batches.append(set(batch.positions.tolist()))

    weights = None if of.forgotten is None else of.forgotten[None]
    train(of.build, of.records, of.training, [SEED], weights, watch=watch)
    return Recorded(before[0], [b - a for a, b in pairwise(before)], batches, before[-1])


def largest(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


# The identity


@pytest.mark.parametrize("name", RECIPES)
def test_what_stays_is_the_start_and_the_kept_steps(name: str) -> None:
    """In float64: for SGD, momentum and Adam; a request that meets no batch changes no bit."""
    of = task(RECIPES[name])
    victim, steps = Amnesiac().learn(of, SEED), recorded(of)
    assert torch.equal(victim.flat(), steps.end)
    assert torch.equal(victim.flat(), plain_learning(of, SEED).flat())
    for request in (A, B, Request(tuple(range(N)))):
        found = forget(Amnesiac(), of, victim, request, SEED).flat()
        assert largest(found, steps.without(request.indices)) <= 1e-12
    assert 0 < sum(1 for batch in steps.batches if batch & set(A.indices)) < len(steps.batches)
    assert torch.equal(Amnesiac().forget(of, victim, torch.zeros(2, N).double(), SEED).flat()[1], victim.flat())


def test_forgetting_everything_leads_back_to_the_initialisation() -> None:
    of = task()
    found = Amnesiac().forget(of, Amnesiac().learn(of, SEED), torch.ones(1, N).double(), SEED)
    assert largest(found.flat()[0], recorded(of).start) <= 1e-12


def test_requests_in_sequence_take_no_step_back_twice() -> None:
    of = task()
    victim, steps = Amnesiac().learn(of, SEED), recorded(of)
    shared = [batch for batch in steps.batches if batch & set(A.indices) and batch & set(B.indices)]
    assert shared
    first = forget(Amnesiac(), of, victim, A, SEED)
    second = forget(Amnesiac(), of.without(A), first, B, SEED)
    assert largest(second.flat(), steps.without(A.indices + B.indices)) <= 1e-12


def test_records_that_were_gone_while_learning_meet_no_step() -> None:
    """They were not learned, so a batch that holds one of them is still taken back for another of its records."""
    of = task().without(A)
    victim, steps = Amnesiac().learn(of, SEED), recorded(of)
    assert largest(forget(Amnesiac(), of, victim, B, SEED).flat(), steps.without(B.indices)) <= 1e-12
    assert torch.equal(victim.flat(), plain_learning(of, SEED).flat())


def test_batch_norm_keeps_the_statistics_of_the_victim() -> None:
    of = task(build=BATCH_NORM)
    victim = Amnesiac().learn(of, SEED)
    found = forget(Amnesiac(), of, victim, A, SEED)
    assert largest(found.flat(), recorded(of).without(A.indices)) <= 1e-12
    assert all(torch.equal(value, victim.buffers[name]) for name, value in found.buffers.items())


# Fractions and the gradient


def fractions(m: int) -> Tensor:
    """Weights with zeros, fractions, and in each row two ones that meet in a batch, so that products hold two zeros."""
    weights = torch.rand(m, N, generator=generator(1, "w"), dtype=torch.float64)
    weights = torch.where(weights < 0.5, 0.0, weights - 0.4)
    pair = sorted(recorded(task()).batches[0])[:2]
    weights[:, pair] = 1
    return weights


def test_fractions_take_back_a_share_of_a_step() -> None:
    of = task()
    victim, steps, weights = Amnesiac().learn(of, SEED), recorded(of), fractions(3)
    found = Amnesiac().forget(of, victim, weights, SEED).flat()
    for row, w in zip(found, weights, strict=True):
        expected = steps.end.clone()
        for update, batch in zip(steps.updates, steps.batches, strict=True):
            expected -= (1 - torch.stack([1 - w[i] for i in batch]).prod()) * update
        assert largest(row, expected) <= 1e-12


@pytest.mark.parametrize("numbers", [2**24, 1], ids=["at once", "step by step"])
@pytest.mark.parametrize("gone", [False, True])
def test_gradient_is_the_difference_over_the_whole_unit_interval(
    numbers: int, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """theta' is linear in each single w_i, so dL/dw_i of a linear L is exactly L(w_i = 1) - L(w_i = 0)."""
    monkeypatch.setattr(unlearning.amnesiac, "NUMBERS", numbers)
    of = task()
    victim, weights = Amnesiac().learn(of, SEED), fractions(2)
    if gone:
        victim, of = forget(Amnesiac(), of, victim, A, SEED), of.without(A)
    q = torch.randn(2, victim.flat().numel(), generator=generator(2, "q"), dtype=torch.float64)
    models = Amnesiac().forget(of, victim, weights, SEED)
    slopes = Amnesiac().request_vjp(of, victim, models, weights, q)
    for j in range(2):
        ends = []
        for end in (1.0, 0.0):
            rows = weights[j].repeat(N, 1)
            rows.fill_diagonal_(end)
            ends.append(Amnesiac().forget(of, victim, rows, SEED).flat() @ q[j])
        assert largest(slopes[j], ends[0] - ends[1]) <= 1e-11
    assert slopes.abs().max() > 1e-2
    assert (slopes[:, A.indices].abs().max() == 0) == gone


@pytest.mark.parametrize("seed", range(3))
def test_dw_on_the_testbed_equals_central_differences(seed: int) -> None:
    """Under an attack's objective; relative error below 1e-6, as for retraining and the single steps."""
    plain = testbed(seed)
    sgd = replace(plain.task, training=Training(epochs=2, batch_size=10, weight_decay=plain.task.training.weight_decay))
    bed = replace(plain, task=sgd, victim=Amnesiac().learn(sgd, seed))
    weights = 0.1 * torch.rand(TRAINING, generator=generator(1, "w"), dtype=torch.float64)
    loss, slopes = loss_and_slopes(bed, Amnesiac(), weights)
    direction = torch.randn(TRAINING, generator=generator(2, "d"), dtype=torch.float64)
    step = 1e-4  # truncation about step^2 = 1e-8 of the slope, rounding about 1e-12/step
    difference = (loss(weights + step * direction) - loss(weights - step * direction)) / (2 * step)
    assert abs(float(slopes @ direction - difference)) < 1e-6 * abs(float(difference))


# Repair


@pytest.mark.parametrize("build", [MLP_, BATCH_NORM], ids=["mlp", "batch_norm"])
def test_repair_is_fine_tuning_of_what_stays(build: Any) -> None:
    of = task(build=build)
    repairing = Amnesiac(repair_epochs=2, repair_lr=0.03)
    assert (repairing.differentiable, repairing.stochastic) == (False, True)
    assert (Amnesiac().differentiable, Amnesiac().stochastic) == (True, False)
    victim = repairing.learn(of, SEED)
    taken = forget(Amnesiac(), of, victim, A, SEED)
    found = forget(repairing, of, victim, A, 9)
    expected = forget(FineTune(epochs=2, lr=0.03), of, taken, A, 9)
    for part in ("parameters", "buffers"):
        for name, value in getattr(found, part).items():
            assert largest(value.double(), getattr(expected, part)[name].double()) <= 1e-12
    assert largest(found.flat(), taken.flat()) > 1e-3
    assert found.history is victim.history


def test_repair_leaves_a_model_from_which_nothing_was_taken() -> None:
    of = task()
    repairing = Amnesiac(repair_epochs=1)
    victim = repairing.learn(of, SEED)
    deleted = as_weights([Request(()), A], of.records)
    found = repairing.forget(of, victim, deleted, SEED)
    assert torch.equal(found.flat()[0], victim.flat())
    assert largest(found.flat()[1], forget(repairing, of, victim, A, SEED).flat()) <= 1e-12
    assert torch.equal(repairing.forget(of, victim, deleted[:1], SEED).flat()[0], victim.flat())


def test_repair_has_no_fractions_and_no_gradient() -> None:
    of = task()
    repairing = Amnesiac(repair_epochs=1)
    victim = repairing.learn(of, SEED)
    with pytest.raises(UserError, match="whole examples"):
        repairing.forget(of, victim, fractions(1), SEED)
    with pytest.raises(UserError, match="repair_epochs=0"):
        repairing.request_vjp(of, victim, victim.copies(1), fractions(1), victim.flat()[None])


# What it refuses and leaves alone


def test_a_record_that_is_too_large_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 steps of 53 parameters in float64 and of 5 positions: 6,960 bytes."""

    def never(*_: Any) -> Any:
        raise AssertionError("training began")

    of = task()
    Amnesiac(max_gigabytes=6960e-9).learn(of, SEED)
    monkeypatch.setattr(unlearning.amnesiac, "train", never)
    with pytest.raises(UserError, match=r"15 steps of 53 parameters, 6.96e-06 GB, .* unlearning.max_gigabytes=6.9e-06"):
        Amnesiac(max_gigabytes=6900e-9).learn(of, SEED)
    with pytest.raises(UserError, match=r"training.optimizer=newton takes none"):
        Amnesiac().learn(replace(of, training=Training(optimizer="newton")), SEED)


def test_batches_larger_than_the_records_are_recorded() -> None:
    of = task(replace(MOMENTUM, batch_size=100))
    victim = Amnesiac().learn(of, SEED)
    assert victim.history["batches"].shape == (3, N)
    assert largest(forget(Amnesiac(), of, victim, A, SEED).flat(), recorded(of).start) <= 1e-12


def test_leaves_the_victim_and_ignores_the_copy() -> None:
    of = task(build=BATCH_NORM)
    for procedure in (Amnesiac(), Amnesiac(repair_epochs=1)):
        victim = procedure.learn(of, SEED)
        tensors = victim.parameters | victim.buffers | victim.history
        kept = {name: value.clone() for name, value in tensors.items()}
        flags = [(m.training, p.requires_grad) for m in victim.module.modules() for p in m.parameters()]
        deleted = as_weights([A, B], of.records)
        copies = Examples(of.records.x + 1, of.records.y)
        found = procedure.forget(of, victim, deleted, SEED, copies)
        assert torch.equal(found.flat(), procedure.forget(of, victim, deleted, SEED).flat())
        for row, request in zip(found.flat(), (A, B), strict=True):
            assert largest(row, forget(procedure, of, victim, request, SEED).flat()) <= 1e-9
        assert all(torch.equal(value, kept[name]) for name, value in tensors.items())
        assert flags == [(m.training, p.requires_grad) for m in victim.module.modules() for p in m.parameters()]
        assert isinstance(found[0], Victim)
        assert found[0].history is victim.history
