"""Vanishing steps: every error is the same share of the distance to the original, whatever is replayed."""

from __future__ import annotations

import pytest
import torch

from attacks.provider.parameter_abuse import ParameterAbuse
from models.training import Training
from tests.attacks.provider.asked import BATCH_NORM, RETAINED, asked, demand_of
from tests.games.verification.small import play
from unlearning.provable import drawn

SLACKS = {"l1": 1000.0, "weights": 10.0, "l_inf": 0.1, "cosine": 0.01}  # of Proof-of-Learning; weights: in l2


@pytest.mark.parametrize("steps", [10, 100])
def test_every_error_is_the_distance_over_the_steps(tmp_path, steps):
    """In float64. A step moves weights by lr ||g + lambda w||, here below 1e-11, and errors are 0.06 and more."""
    demand = demand_of(dtype=torch.float64)
    found = asked(ParameterAbuse(steps=steps), demand, tmp_path / "proof")
    distance = float((demand.original.flat() - drawn(demand.task, 0).flat()).norm())
    torch.testing.assert_close(found.errors, torch.full_like(found.errors, distance / steps), rtol=1e-9, atol=0)


def test_it_begins_fresh_ends_with_the_original_and_costs_no_gradient(tmp_path):
    demand = demand_of()
    found = asked(ParameterAbuse(steps=50), demand, tmp_path / "proof")
    assert torch.equal(found.states()[0].weights, drawn(demand.task, 0).flat())
    assert torch.equal(found.states()[-1].weights, demand.original.flat())
    assert found.released is demand.original
    assert (found.demand.gradients.count, found.demand.gradients.updates) == (0, 0)
    assert all(set(step.batch.tolist()) <= set(RETAINED.tolist()) for step in found.proof.read(1))
    recipe = found.proof.header.recipe
    assert (recipe.optimizer, recipe.lr, recipe.momentum, found.proof.header.begins) == ("sgd", 1e-12, 0.0, "seed")


def test_all_loose_slacks_let_it_pass_and_a_tight_tolerance_does_not(tmp_path):
    found = asked(ParameterAbuse(steps=50), demand_of(), tmp_path / "proof").replay
    assert all(max(getattr(found, name)) < slack for name, slack in SLACKS.items())
    assert min(found.weights) > 1e-3
    assert found.moments == []  # plain SGD has none, so that none is compared


def test_models_with_batch_norm_and_adam(tmp_path):
    demand = demand_of(BATCH_NORM, Training(optimizer="adam", lr=1e-2, epochs=10, batch_size=50))
    found = asked(ParameterAbuse(steps=20), demand, tmp_path / "proof")
    x, last = demand.task.records.x, found.states()[-1]
    assert torch.equal(found.released.logits(x), demand.original.logits(x))
    assert all(torch.equal(found.released.buffers[name], value) for name, value in last.buffers.items())
    assert max(found.replay.weights) < 10
    assert max(found.replay.buffers) > 1e-2  # a forward pass changes running statistics however small the step is


def test_by_the_number_of_steps_of_retraining_its_learning_rate_gives_it_away(tmp_path):
    game = ("attack=parameter_abuse", "attack.steps=null")
    loose = play(tmp_path, *game, "defense.tolerance=10", "defense.checks=[complete,removability,initialisation,final]")
    assert loose["verdict"]["passed"] is True
    assert loose["cost"]["provider_gradients"] == 0
    audited = play(tmp_path, *game, "defense.tolerance=10", "defense.checks=[recipe]")
    assert audited["verdict"]["passed"] is False
    assert "recipe" in audited["verdict"]["reason"]
    assert play(tmp_path, *game, "defense.checks=[]")["verdict"]["passed"] is False


def test_without_a_proof_to_write_nothing_is_done():
    demand = demand_of()
    assert ParameterAbuse().pretend(demand) is demand.original
