"""Unrolling SGD against retraining where it is exact, its closed form, and differences of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.gradients import per_example_gradients
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.training import Training, initialise
from models.victim import Victim, stack
from tests.testbed import TRAINING, Testbed, testbed
from tests.unlearning.test_operators import fractional_weights, loss_and_slopes
from unlearning.procedure import Request, Task, forget, plain_learning
from unlearning.retrain import Retrain
from unlearning.unrolling_sgd import UnrollingSGD, unlearning_error, verification_error

N, SEED = 23, 4
PLAIN = Training(epochs=3, batch_size=5, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")
MLP_: tuple[Callable[[], nn.Module], tuple[int, ...]] = (partial(MLP, shape=(6,), classes=3, widths=[5]), (6,))
BATCH_NORM = (partial(SmallCNN, shape=(1, 4, 4), classes=3, widths=[2], norm="batch"), (1, 4, 4))


def task(training: Training = PLAIN, build: Any = MLP_) -> Task:
    rng = generator(0, "records")
    x = torch.randn(N, *build[1], generator=rng, dtype=torch.float64)
    return Task(Examples(x, torch.randint(3, (N,), generator=rng)), build[0], training)


def rows() -> Tensor:
    """Nothing, one record, several, and fractions."""
    weights = torch.zeros(4, N, dtype=torch.float64)
    weights[1, 3], weights[2, :9] = 1, 1
    weights[3] = torch.rand(N, generator=generator(1, "w"), dtype=torch.float64)
    return weights


def largest(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


# Where it is exact, and what it computes


def test_one_step_of_plain_full_batch_sgd_is_retraining() -> None:
    """theta_1 = theta_0 - (lr/n) sum_i g_i(theta_0), so adding the deleted gradients back is retraining."""
    for batch_size in (N, 1000):
        of = task(replace(PLAIN, epochs=1, batch_size=batch_size))
        victim = UnrollingSGD().learn(of, SEED)
        found = UnrollingSGD().forget(of, victim, rows(), SEED)
        exact = Retrain().forget(of, victim, rows(), SEED)
        assert largest(found.flat(), exact.flat()) <= 1e-12
        assert (verification_error(found, exact) <= 1e-12).all()
        assert largest(found.flat()[2], victim.flat()) > 1e-3


def test_weight_decay_is_left_out_and_changes_nothing_in_the_first_step() -> None:
    of = task(replace(PLAIN, epochs=1, batch_size=N, weight_decay=0.1))
    victim = UnrollingSGD().learn(of, SEED)
    exact = Retrain().forget(of, victim, rows(), SEED)
    assert largest(UnrollingSGD().forget(of, victim, rows(), SEED).flat(), exact.flat()) <= 1e-12


@pytest.mark.parametrize("build", [MLP_, BATCH_NORM], ids=["mlp", "batch_norm"])
def test_closed_form_with_gradients_at_the_initialisation(build: Any) -> None:
    """eta E / B times the sum of the gradients of the submitted copies, with the initial statistics of batch-norm."""
    of = task(build=build)
    victim = UnrollingSGD().learn(of, SEED)
    assert torch.equal(victim.flat(), plain_learning(of, SEED).flat())
    copies = Examples(of.records.x + 0.5, (of.records.y + 1) % 3)
    for examples, submitted in ((of.records, None), (copies, copies)):
        initial = Victim(*initialise(of.build, SEED, of.records.x))
        gradients = per_example_gradients(initial, examples)
        found = UnrollingSGD().forget(of, victim, rows(), 7, submitted)
        expected = victim.flat() + 0.1 * 3 / 5 * rows() @ gradients
        assert largest(found.flat(), expected) <= 1e-12
        for name, value in found.buffers.items():
            assert torch.equal(value, victim.buffers[name].expand_as(value))
    assert torch.equal(found.flat()[0], victim.flat())


def test_requests_in_sequence_are_one_request() -> None:
    of, first, second = task(), Request((3, 11)), Request((0, 7))
    victim = UnrollingSGD().learn(of, SEED)
    after = forget(UnrollingSGD(), of.without(first), forget(UnrollingSGD(), of, victim, first, SEED), second, SEED)
    together = forget(UnrollingSGD(), of, victim, Request((0, 3, 7, 11)), SEED)
    assert largest(after.flat(), together.flat()) <= 1e-12
    assert after.history is victim.history


# The rate


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({}, 0.1 * 3 / 5),
        ({"momentum": 0.9}, 0.1 * 3 / 5 / 0.1),
        ({"batch_size": 100}, 0.1 * 3 / N),
        ({"schedule": "cosine", "epochs": 1}, 0.1 * (1 + 0.904508497 + 0.654508497 + 0.345491503 + 0.095491503) / 25),
        ({"schedule": "cosine", "epochs": 400}, 0.1 * 400 / 5 / 2),  # the mean of the cosine is 1/2, up to 1/steps
    ],
)  # fmt: skip
def test_rate_of_the_recipe(changes: dict[str, Any], rate: float) -> None:
    tolerance = 1e-3 if changes.get("epochs") == 400 else 1e-9
    assert UnrollingSGD().step_size(task(replace(PLAIN, **changes))) == pytest.approx(rate, rel=tolerance)
    assert UnrollingSGD(rate=0.7).step_size(task(replace(PLAIN, **changes))) == 0.7


def test_other_optimisers_need_a_rate() -> None:
    of = task(replace(PLAIN, optimizer="adam", lr=0.01))
    for refused in (of, replace(of, training=Training(optimizer="newton"))):
        with pytest.raises(UserError, match=r"unlearning.rate=null .* training.optimizer=(adam|newton)"):
            UnrollingSGD().learn(refused, SEED)
    given = UnrollingSGD(rate=0.5)
    victim = given.learn(of, SEED)
    found = given.forget(of, victim, rows(), SEED).flat() - victim.flat()
    initial = Victim(*initialise(of.build, SEED, of.records.x))
    assert largest(found[1], 0.5 * per_example_gradients(initial, of.records)[3]) <= 1e-12
    for rate in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            UnrollingSGD(rate=rate)


# Gradients on the Gaussian testbed


def bed(seed: int) -> Testbed:
    plain = testbed(seed)
    sgd = replace(plain.task, training=Training(epochs=5, weight_decay=plain.task.training.weight_decay))
    return replace(plain, task=sgd, victim=UnrollingSGD().learn(sgd, seed))


@pytest.mark.parametrize("seed", range(3))
def test_dw_equals_central_differences(seed: int) -> None:
    """Under an attack's objective; relative error below 1e-6."""
    weights, procedure = fractional_weights(), UnrollingSGD(rate=1 / TRAINING)
    loss, slopes = loss_and_slopes(bed(seed), procedure, weights)
    direction = torch.randn(TRAINING, generator=generator(2, "d"), dtype=torch.float64)
    step = 1e-4  # truncation about step^2 = 1e-8 of the slope, rounding about 1e-12/step
    difference = (loss(weights + step * direction) - loss(weights - step * direction)) / (2 * step)
    assert abs(float(slopes @ direction - difference)) < 1e-6 * abs(float(difference))


@pytest.mark.parametrize("seed", range(3))
def test_dx_equals_central_differences(seed: int) -> None:
    """dL/ddelta of the submitted copies, with L a fixed linear function of the unlearned parameters."""
    on, procedure = bed(seed), UnrollingSGD()
    records, deleted = on.task.records, torch.zeros(TRAINING, dtype=torch.float64)
    deleted[:15], deleted[15:30] = 1, 0.5
    q = torch.randn(on.victim.flat().shape, generator=generator(3, "q"), dtype=torch.float64)
    slopes = procedure.copies_vjp(on.task, on.victim, deleted, q, records)
    direction = torch.randn(records.x.shape, generator=generator(4, "x"), dtype=torch.float64)

    def value(step: float) -> float:
        copies = Examples(records.x + step * direction, records.y)
        return float(procedure.forget(on.task, on.victim, deleted[None], 0, copies).flat()[0] @ q)

    difference = (value(1e-4) - value(-1e-4)) / 2e-4
    assert abs(float((slopes * direction).sum()) - difference) < 1e-6 * abs(difference)
    assert slopes[30:].abs().max() == 0


# What it leaves alone, and Thudi's proxies


def test_leaves_the_victim_as_it_is_and_treats_rows_alone() -> None:
    of = task(build=BATCH_NORM)
    victim = UnrollingSGD().learn(of, SEED)
    tensors = victim.parameters | victim.buffers | victim.history
    kept = {name: value.clone() for name, value in tensors.items()}
    flags = [(m.training, p.requires_grad) for m in victim.module.modules() for p in m.parameters()]
    together = UnrollingSGD().forget(of, victim, rows(), SEED).flat()
    for row, weights in zip(together, rows(), strict=True):
        assert largest(row, UnrollingSGD().forget(of, victim, weights[None], SEED).flat()[0]) <= 1e-12
    assert all(torch.equal(value, kept[name]) for name, value in tensors.items())
    assert flags == [(m.training, p.requires_grad) for m in victim.module.modules() for p in m.parameters()]


def test_verification_error_is_the_distance_to_retraining() -> None:
    of, request = task(), Request((3, 11))
    victim = UnrollingSGD().learn(of, SEED)
    found = replace(forget(UnrollingSGD(), of, victim, request, SEED), history={})
    exact = forget(Retrain(), of, victim, request, SEED)
    expected = torch.stack([(found.flat() - exact.flat()).square().sum().sqrt(), torch.zeros(())])
    assert largest(verification_error(stack([found, exact]), stack([exact, exact])), expected) <= 1e-14
    before = (victim.flat() - exact.flat()).norm()
    assert expected[0] < before  # three epochs are few: the first order still helps


def test_unlearning_error_is_no_upper_bound() -> None:
    """A 5-d quadratic (h = 2, lr 0.01): the verification error exceeds the proxy at 10, 50 and 100 steps."""
    h, lr, rng = 2.0, 0.01, generator(0, "quadratic")
    centres = torch.randn(10, 5, generator=rng, dtype=torch.float64)
    start = torch.randn(5, generator=rng, dtype=torch.float64)

    def descend(kept: Tensor, steps: int) -> Tensor:
        theta = start
        for _ in range(steps):
            theta = theta - lr * (kept[:, None] * h * (theta - centres)).mean(0)
        return theta

    everything, without = torch.ones(10).double(), torch.ones(10).double()
    without[0] = 0
    for steps in (10, 50, 100):
        learned = descend(everything, steps)
        unrolled = learned + lr * steps / 10 * h * (start - centres[0])
        error = (unrolled - descend(without, steps)).norm()
        proxy = unlearning_error((learned - start).norm(), lr, steps, torch.tensor(h).double().sqrt())
        assert error > proxy > 0
        assert proxy == 0.5 * lr**2 * steps * (learned - start).norm() * h**0.5
