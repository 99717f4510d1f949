"""Invented inputs: the steps they are to explain, how far replay is off, and which audits see them."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from attacks.provider.line import line
from attacks.provider.spoofing import Batch, Spoofing, Traced, bounds, descended_by, landed
from data.examples import Examples
from data.randomness import generator
from models.mlp import MLP
from models.plan import Plan
from models.stepwise import Gradients, Stepwise
from models.training import Training
from tests.attacks.provider.asked import BATCH_NORM, DELETED, DIGITS, MLP16, RETAINED, asked, demand_of, rows
from tests.games.verification.small import play
from unlearning.provable import drawn
from unlearning.task import Task

DROPOUT = partial(MLP, shape=DIGITS.shape, classes=10, widths=(16,), dropout=0.3)
RECIPES = {
    "plain": Training(momentum=0.0, weight_decay=0.0),
    "momentum": Training(momentum=0.9, weight_decay=1e-2),
    "adam": Training(optimizer="adam", lr=1e-2, weight_decay=1e-2),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_that_can_be_differentiated_is_that_of_training(recipe):
    training, records = RECIPES[recipe], DIGITS.train.to(dtype=torch.float64)
    start = drawn(Task(records, MLP16, training), 0)
    learner = Stepwise(start, training, records.x, 0)
    for step in range(4):
        weights, moments = learner.state.weights.clone(), learner.state.clone().moments
        slope = learner.slope(*rows(records, torch.arange(50 * step, 50 * step + 50)), step).clone()
        learner.update(0.03)
        found = landed(weights, slope, moments, 0.03, training)
        torch.testing.assert_close(found, learner.state.weights, rtol=1e-12, atol=1e-14)  # of float64 roundings


@pytest.mark.parametrize("build", [MLP16, BATCH_NORM, DROPOUT], ids=["mlp", "batch-norm", "dropout"])
def test_the_traced_gradient_is_that_of_training_and_its_derivative_that_of_differences(build):
    """By central differences in float64, whose error is of the order h^2.

    At inputs with some noise: pixels of the background are equal, where max-pooling has no derivative.
    """
    training, records = Training(), DIGITS.train.to(dtype=torch.float64)
    start = drawn(Task(records, build, training), 0)
    traced = Traced(start, training, records.x, 0, Gradients())
    x, y = rows(records, torch.arange(20))
    x = (x + 0.01 * torch.randn(x.shape, generator=generator(1), dtype=x.dtype)).requires_grad_()
    slope = traced.traced(x, y, 3)
    plain = Stepwise(start, training, records.x, 0).slope(x.detach(), y, 3)
    torch.testing.assert_close(slope.detach(), plain, rtol=1e-10, atol=1e-13)
    assert traced.gradients.count == 40
    along = torch.randn(x.shape, generator=generator(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(slope.square().sum(), [x])
    h = 1e-6
    ahead, behind = (
        traced.traced(x.detach() + sign * h * along, y, 3).detach().square().sum() for sign in (1, -1)
    )  # fmt: skip
    assert float((gradient * along).sum()) == pytest.approx(float((ahead - behind) / (2 * h)), rel=1e-5)


def test_what_leaves_the_range_is_clamped_so_that_the_nearest_point_within_is_found():
    """The minimum of ||z - target||^2 over a box is the target, clamped to it."""
    x = torch.full((2, 3), 0.5, dtype=torch.float64)
    target = torch.tensor([[-3.0, 0.2, 0.9], [0.4, 1.5, 0.0]], dtype=torch.float64)
    low, high = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    batch = Batch(Examples(x, torch.zeros(2, dtype=torch.long)), low, high, 0, 0.1)
    shift = descended_by(lambda z: (z - target).square().sum(), batch, 30)
    torch.testing.assert_close(torch.clamp(x + shift, low, high), target.clamp(0, 1), atol=1e-6, rtol=0)
    broken = descended_by(lambda z: (z * float("nan")).sum(), batch, 3)
    assert torch.equal(broken, torch.zeros_like(x))


def test_bounds_are_by_channel():
    x = torch.tensor([[[[0.0, 1.0]], [[5.0, 7.0]]], [[[-1.0, 0.5]], [[6.0, 6.0]]]])
    low, high = bounds(x)
    assert (low.flatten().tolist(), high.flatten().tolist()) == ([-1, 5], [1, 7])
    assert low.shape == (1, 2, 1, 1)


@pytest.mark.parametrize("match", ["gradient", "zero"])
def test_the_proof_is_a_line_to_the_original_on_inputs_that_are_not_the_records(tmp_path, match):
    demand = demand_of()
    found = asked(Spoofing(match=match, steps=12), demand, tmp_path / "proof")
    records, states = demand.task.records, found.states()
    assert torch.equal(states[0].weights, drawn(demand.task, 0).flat())
    assert torch.equal(states[-1].weights, demand.original.flat())
    directions = [one.weights - states[0].weights for one in states[1:]]
    cosines = [torch.cosine_similarity(one, directions[-1], dim=0) for one in directions]
    assert float(torch.stack(cosines).min()) > 1 - 1e-5
    assert torch.equal(found.released.logits(records.x), demand.original.logits(records.x))
    changed = 0.0
    for step in found.proof.read(1):
        assert set(step.batch.tolist()) <= set(RETAINED.tolist())
        assert step.inputs is not None
        assert float(records.x.min()) <= float(step.inputs.min())
        assert float(step.inputs.max()) <= float(records.x.max())
        changed = max(changed, float((step.inputs - records.x[step.batch]).abs().max()))
    assert changed > 1e-4
    assert found.replay.moments == [0.0]
    assert 1e-3 < found.errors.max() < 10  # Proof-of-Learning's slack in l2; tight tolerances see it


def test_inputs_that_are_optimised_bring_the_replay_nearer(tmp_path):
    """With the inputs of the records, errors are those of a line that training does not follow."""
    demand = demand_of()
    left, made = (
        asked(Spoofing(steps=None, iterations=count), demand, tmp_path / str(count)) for count in (0, 5)
    )  # fmt: skip
    assert float(made.errors.mean()) < 0.5 * float(left.errors.mean())  # 0.34 of them when this was written
    assert left.demand.gradients.count == 50 * 50  # of replaying alone
    assert made.demand.gradients.count > 50 * 50 * (1 + 2 * 5)
    assert made.demand.gradients.updates == 0  # none of which made the released model


def test_errors_are_the_distances_of_the_replayed_steps_from_the_line(tmp_path):
    """Plain SGD, by hand: VE_i = ||W_{i-1} - lr (g + lambda W_{i-1}) - W_i||."""
    training = Training(epochs=10, batch_size=50, momentum=0.0, schedule="constant")
    found = asked(Spoofing(match="zero", steps=6, closeness=0.0), demand_of(training=training), tmp_path / "proof")
    demand, states = found.demand, found.states()
    learner = Stepwise(demand.original, training, demand.task.records.x, 0)
    for step, error in zip(found.proof.read(1), found.errors.tolist(), strict=True):
        before, after = states[step.number - 1].weights, states[step.number].weights
        learner.load(states[step.number - 1])
        slope = learner.slope(step.inputs, demand.task.records.y[step.batch], step.number - 1)
        reached = before - step.lr * (slope + training.weight_decay * before)
        assert error == pytest.approx(float((reached - after).norm()), rel=1e-4)
        # zero: the step hardly moves, so that what is off is about the spacing
        assert error == pytest.approx(float((after - before).norm()), rel=0.35)


def test_shares_follow_the_learning_rates_so_that_a_schedule_that_ends_in_zero_can_be_met(tmp_path):
    demand = demand_of()
    found = asked(Spoofing(steps=12), demand, tmp_path / "proof")
    path, states = line(demand.task, demand.original, 0), found.states()
    rates = torch.tensor([found.proof.lr(step) for step in range(1, 13)], dtype=torch.float64)
    moved = torch.stack([(b.weights - a.weights).norm() for a, b in pairwise(states)]).double()
    whole = float((path.end.weights - path.start.weights).norm())
    torch.testing.assert_close(moved, whole * rates / rates.sum(), rtol=1e-4, atol=1e-6)


def test_models_with_batch_norm_and_adam(tmp_path):
    """Moments are genuine; running statistics are on the line, so replay is off there too."""
    demand = demand_of(BATCH_NORM, Training(optimizer="adam", lr=1e-2, epochs=10, batch_size=50))
    found = asked(Spoofing(steps=3, iterations=2), demand, tmp_path / "proof")
    x, last = demand.task.records.x, found.states()[-1]
    assert torch.equal(found.released.logits(x), demand.original.logits(x))
    assert all(torch.equal(found.released.buffers[name], value) for name, value in last.buffers.items())
    assert found.replay.moments == [0.0]
    assert max(found.replay.buffers) > 1e-2


def test_as_many_steps_as_retraining_in_the_order_that_was_asked_for(tmp_path):
    demand = demand_of(order=5)
    found = asked(Spoofing(steps=None, iterations=0), demand, tmp_path / "proof")
    other = asked(Spoofing(steps=None, iterations=0), demand_of(order=6), tmp_path / "other")
    assert found.proof.steps == 10 * (270 // 50)

    def order(of) -> list[Tensor]:
        return [step.batch for step in of.proof.read(1)]

    assert all(map(torch.equal, order(found), Plan(demand.task.training, 270).batches(RETAINED, 5)))
    assert not all(map(torch.equal, order(found), order(other)))


def test_without_a_proof_to_write_nothing_is_done():
    demand = demand_of()
    assert Spoofing().pretend(demand) is demand.original
    assert demand.gradients.count == 0
    assert len(demand.request.indices) == len(DELETED)


def test_it_passes_a_loose_slack_and_an_audit_of_inputs_or_a_tight_tolerance_sees_it(tmp_path):
    game = ("attack=spoofing", "attack.steps=4", "attack.iterations=2", "training.epochs=5")
    loose = play(tmp_path, *game, "defense.tolerance=10", "defense.checks=[complete,removability,initialisation,final]")
    assert loose["verdict"]["passed"] is True
    tight = play(tmp_path, *game, "defense.checks=[]")
    assert tight["verdict"]["passed"] is False
    audited = play(tmp_path, *game, "defense.tolerance=10")
    assert audited["verdict"]["passed"] is False
    assert "inputs of their own" in audited["verdict"]["reason"]


@pytest.mark.claims
def test_slacks_of_proof_of_learning_let_it_pass_with_a_ninth_of_the_steps(tmp_path):
    """On digits, 20 steps of 180: l1, l2, l_inf are 22.5, 0.69, 0.074 for gradient and 13.4, 0.41, 0.042 for zero.

    Only the cosine of the gradient variant, 0.0149, is beyond its slack, and within it with 180 steps (l2 then 0.048).
    """
    usual = ("data.train=1000", "data.test=497", "game.users=5", "game.records=20", "defense.checks=[]")
    slacks = {"l1": 1000.0, "l2": 10.0, "l_inf": 0.1, "cosine": 0.01}

    def passes(*overrides: str) -> dict[str, bool]:
        game = ("attack=spoofing", *usual, *overrides)
        return {
            name: play(tmp_path, *game, f"defense.distance={name}", f"defense.tolerance={slack}")["verdict"]["passed"]
            for name, slack in slacks.items()
        }

    assert passes() == {"l1": True, "l2": True, "l_inf": True, "cosine": False}
    assert all(passes("attack.match=zero").values())
    assert all(passes("attack.steps=null").values())
