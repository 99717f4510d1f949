from __future__ import annotations

from dataclasses import replace

import torch

from data.randomness import derive, generator
from models.gradients import objective_gradient
from models.training import Training
from tests.attacks.checks import bed
from tests.testbed import LAMBDA, TRAINING
from unlearning.fine_tune import FineTune
from unlearning.retrain import Retrain


def task():  # type: ignore[no-untyped-def]
    return replace(bed(0).task, training=Training(optimizer="newton", weight_decay=LAMBDA / TRAINING, batch_size=100))


def three_rows() -> torch.Tensor:
    deleted = torch.zeros(3, TRAINING, dtype=torch.float64)
    deleted[1, :15], deleted[2, 100:130] = 1, 1
    return deleted


def by_hand(deleted: torch.Tensor, tuning: FineTune, seed: int) -> torch.Tensor:
    """Minibatch SGD with momentum from the victim, batch means that count deleted records too."""
    of, theta = bed(0), bed(0).victim
    rng, velocity = generator(derive(seed, "fine-tune"), "batches"), torch.zeros(33, dtype=torch.float64)
    for _ in range(tuning.epochs):
        for part in torch.randperm(TRAINING, generator=rng).split(100):
            slope = objective_gradient(theta, of.task.records[part], deleted[None, part], LAMBDA / TRAINING)[0]
            velocity = tuning.momentum * velocity + slope
            theta = theta.moved(-tuning.lr * velocity[None])[0]
    return theta.flat()


def test_equals_a_plain_loop_on_the_same_batches_for_every_row() -> None:
    tuning = FineTune(epochs=2, lr=0.1)
    found = tuning.forget(task(), bed(0).victim, three_rows(), 5).flat()
    for row, each in zip(found, three_rows(), strict=True):
        assert (row - by_hand(each, tuning, 5)).abs().max() < 1e-10


def test_starts_from_the_victim() -> None:
    of = bed(0)
    tiny = FineTune(epochs=1, lr=1e-12).forget(task(), of.victim, three_rows(), 0).flat()
    assert (tiny - of.victim.flat()).abs().max() < 1e-9


def test_moves_towards_retraining_and_depends_on_the_seed_only() -> None:
    of, rows = bed(0), three_rows()[1:]
    exact = Retrain().forget(of.task, of.victim, rows, 0).flat()
    tuned = FineTune(epochs=40, lr=0.2, schedule="cosine").forget(task(), of.victim, rows, 0).flat()
    assert ((tuned - exact).norm(dim=1) < 0.5 * (of.victim.flat() - exact).norm(dim=1)).all()
    short = FineTune(epochs=1)
    assert torch.equal(short.forget(task(), of.victim, rows, 1).flat(), short.forget(task(), of.victim, rows, 1).flat())
    assert not torch.equal(
        short.forget(task(), of.victim, rows, 1).flat(), short.forget(task(), of.victim, rows, 2).flat()
    )
