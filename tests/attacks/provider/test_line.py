"""The straight line from a fresh model to the original: its ends, its middle, and how long it may be."""

from __future__ import annotations

import torch

from attacks.provider.line import ended, evenly, line
from models.plan import Plan, lengthened
from models.training import Training
from tests.attacks.provider.asked import BATCH_NORM, MLP16, demand_of
from unlearning.provable import drawn


def test_its_ends_are_a_fresh_model_and_the_original_bit_by_bit():
    demand = demand_of(MLP16)
    path = line(demand.task, demand.original, seed=3)
    fresh, original = drawn(demand.task, 3).flat(), demand.original.flat()
    assert torch.equal(path.at(0, 0).weights, fresh)
    assert torch.equal(path.at(1, 7).weights, original)
    torch.testing.assert_close(path.at(0.25, 1).weights, 0.75 * fresh + 0.25 * original)
    assert path.at(0.5, 2).buffers == {}
    assert ended(demand.original, {}) is demand.original


def test_running_statistics_are_on_it_and_batches_are_counted():
    demand = demand_of(BATCH_NORM)
    path = line(demand.task, demand.original, seed=0)
    fresh, original = drawn(demand.task, 0).buffers, demand.original.buffers
    middle, last = path.at(0.5, 4).buffers, path.at(1, 9).buffers
    assert len(middle) == 6  # mean, variance and count of two layers
    for name, value in middle.items():
        if name.endswith("num_batches_tracked"):
            assert (int(value), int(last[name])) == (4, 9)
        else:
            torch.testing.assert_close(value, (fresh[name] + original[name]) / 2)
            assert torch.equal(last[name], original[name])
    released = ended(demand.original, last)
    x = demand.task.records.x
    assert torch.equal(released.logits(x), demand.original.logits(x))
    assert all(torch.equal(released.buffers[name], value) for name, value in last.items())


def test_a_plan_of_any_length_goes_on_over_the_records():
    training = Training(epochs=2, batch_size=10)
    assert lengthened(training, 35, None) == Plan(training, 35)
    for steps, epochs in ((1, 1), (3, 1), (4, 2), (100, 34)):
        plan = lengthened(training, 35, steps)
        assert (plan.steps, plan.training.epochs) == (steps, epochs)
        assert len(list(plan.batches(torch.arange(35), 0))) == steps


def test_even_shares():
    assert evenly(4).tolist() == [0, 0.25, 0.5, 0.75, 1]
