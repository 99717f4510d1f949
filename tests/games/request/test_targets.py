"""Targets, pools and streams: who is attacked, with what, among whom."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.errors import UserError
from experiments.play.setup import prepare
from games.request.settings import TargetSettings
from games.request.targets import choose_attacker, choose_targets, member_seeds, reserved_records
from tests.experiments.games import config


def predictions(confidences: list[float]) -> torch.Tensor:
    p = torch.tensor(confidences)
    return torch.stack([p, (1 - p) * 0.9, (1 - p) * 0.1], dim=1)


X = torch.arange(8.0)[:, None]
P = predictions([0.5, 0.6, 0.64, 0.8, 0.9, 0.94, 0.99, 0.7])


def test_targets_lie_in_their_band() -> None:
    chosen = choose_targets(TargetSettings(count=2), P, X, seed=0)
    assert chosen.directions == ("over", "over", "under", "under")
    assert set(chosen.positions[:2].tolist()) <= {0, 1, 2}
    assert set(chosen.positions[2:].tolist()) <= {3, 4, 5}
    assert len(chosen.goals) == 4
    assert [goal.direction for goal in chosen.goals] == [-1, -1, 1, 1]
    assert torch.equal(chosen.goals[3].x[0], X[chosen.positions[3]])
    again = choose_targets(TargetSettings(count=2), P, X, seed=0)
    assert torch.equal(chosen.positions, again.positions)


def test_one_direction_does_not_change_the_other() -> None:
    both = choose_targets(TargetSettings(count=2), P, X, seed=0)
    under = choose_targets(TargetSettings(count=2, direction="under"), P, X, seed=0)
    assert torch.equal(both.positions[2:], under.positions)


def test_set_mode_makes_one_aim_per_direction() -> None:
    chosen = choose_targets(TargetSettings(count=3, mode="set"), P, X, seed=0)
    assert len(chosen.goals) == 2
    assert chosen.goal_of.tolist() == [0, 0, 0, 1, 1, 1]
    assert chosen.goals[1].x.flatten().tolist() == [3.0, 4.0, 5.0]


def test_set_mode_gives_both_aims_equally_many_targets() -> None:
    chosen = choose_targets(TargetSettings(count=12, mode="set", under=(0.75, 0.92)), P, X, seed=0)
    assert [len(goal.labels) for goal in chosen.goals] == [2, 2]
    assert chosen.directions == ("over", "over", "under", "under")
    assert set(chosen.positions[2:].tolist()) == {3, 4}


def test_few_targets_are_said_and_none_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    chosen = choose_targets(TargetSettings(count=12, direction="over"), P, X, seed=0)
    assert len(chosen.positions) == 3
    assert "holds no more than 3" in caplog.text
    with pytest.raises(UserError, match="widen the band"):
        choose_targets(TargetSettings(direction="over", over=(0.1, 0.2)), P, X, seed=0)


def test_pool_is_owned(tmp_path: Path) -> None:
    setup = prepare(config(tmp_path, "attack.owned=0.5", "attack.pool=40"))
    attacker = choose_attacker(setup, 0)
    assert len(attacker.pool) == len(attacker.pool.unique()) == 40
    everything = choose_attacker(prepare(config(tmp_path, "attack.owned=0.5")), 0)
    assert set(attacker.pool.tolist()) <= set(everything.pool.tolist())
    assert len(everything.pool) == 150
    reserved = set(reserved_records(setup, 0).tolist())
    assert len(reserved) == 60
    assert not reserved & set(everything.pool.tolist())
    most = choose_attacker(prepare(config(tmp_path)), 0)
    assert len(most.pool) == 240  # all that is not reserved
    assert torch.equal(attacker.owned.y, setup.task.records.y[attacker.pool])
    assert torch.equal(attacker.reference.x, setup.data.auxiliary.x)


def test_victim_from_the_store_is_the_victim(tmp_path: Path) -> None:
    setup = prepare(config(tmp_path))
    trained, stored = setup.victim(0), setup.victim(0)
    assert torch.equal(trained.flat(), stored.flat())
    assert list(trained.parameters) == list(stored.parameters)
    assert not torch.equal(trained.flat(), setup.victim(1).flat())


def test_an_ensemble_has_its_own_seeds(tmp_path: Path) -> None:
    alone = prepare(config(tmp_path))
    assert member_seeds(alone, 7) == [7]
    many = prepare(config(tmp_path, "attack/functional=ensemble", "attack.functional.members=3"))
    assert len(set(member_seeds(many, 7))) == 3


def test_far_targets_are_of_the_share_that_lies_farthest_from_trusted_examples() -> None:
    """Against brute force; the distance of each is reported, beside the mean of all test examples."""
    trusted = X[:7] + 0.1
    distances = torch.stack([(trusted - x).flatten(1).norm(dim=1).min() for x in X]).double()
    settings = TargetSettings(count=2, direction="under")
    inside = ((P.amax(1) > 0.75) & (P.amax(1) < 0.95)).nonzero()[:, 0]
    most = inside[distances[inside].topk(-(-len(inside) // 4)).indices]
    chosen = choose_targets(settings, P, X, seed=0, far=(0.25, trusted))
    assert set(chosen.positions.tolist()) <= set(most.tolist())
    assert chosen.distances is not None
    assert torch.allclose(chosen.distances, distances[chosen.positions], atol=1e-5)
    assert chosen.usual == pytest.approx(float(distances.mean()), abs=1e-5)
    everything = choose_targets(settings, P, X, seed=0, far=(1.0, trusted))
    assert torch.equal(everything.positions, choose_targets(settings, P, X, seed=0).positions)
    with pytest.raises(UserError, match="needs trusted examples"):
        choose_targets(settings, P, X, seed=0, far=(0.25, X[:0]))
