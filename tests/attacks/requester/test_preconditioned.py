"""Rows moved before training: slopes against full retraining, and what the plan attains on the Gaussian testbed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from attacks.crafting.attack import AttackGoal
from attacks.crafting.contribution import contributed
from attacks.requester.preconditioned import Plan, Preconditioned
from data.errors import UserError
from data.examples import Data, bounds
from data.randomness import generator
from experiments.play.play import cached
from experiments.play.setup import prepare
from models.solver import Solver
from models.victim import ModelStack
from tests.attacks.checks import bed
from tests.experiments.games import config
from tests.testbed import FEATURES, TRAINING
from unlearning.retrain import Retrain

EXACT = Solver(method="exact", tolerance=1e-10)


@cache
def data(seed: int) -> Data:
    of, one = bed(seed), torch.ones(FEATURES, dtype=torch.float64)
    return Data("T", of.task.records, of.test, of.trusted, of.test[900:], ("a", "b", "c"), 0 * one, one)


def spread(seed: int, count: int) -> list[AttackGoal]:
    """Goals of targets from the whole list, so that small and large margins are among them."""
    of = bed(seed)
    every = of.targets(1000)
    return of.goals(every[torch.randperm(len(every), generator=generator(seed, "spread"))[:count]])


def plan_of(goals: list[AttackGoal], attack: Preconditioned) -> Plan:
    return attack.planned(bed(0).task, goals, bed(0).attacker(), generator(0, "plan"))


@pytest.mark.parametrize("toward", [None, 1], ids=["untargeted", "targeted"])
def test_the_slope_is_that_of_full_retraining(toward: int | None) -> None:
    """Central differences of the objective, with every model trained again, along random directions: 1e-6. Two goals
    share the rows; margins are so wide that every hinge acts.
    """
    attack = Preconditioned(budget=6, rows=20, toward=toward, kappa=20.0, tolerance=0.0, hold=0.7, solver=EXACT)
    plan, rng = plan_of(spread(0, 2), attack), generator(0, "d")
    start = bed(0).task.records.x[plan.rows]
    at = start + 0.1 * torch.randn(start.shape, generator=rng, dtype=torch.float64)
    _, slopes = plan.measured(at)
    for _ in range(3):
        along = torch.randn(at.shape, generator=rng, dtype=torch.float64)
        ends = [plan.measured(at + h * along)[0] for h in (1e-5, -1e-5)]
        expected = (ends[0] - ends[1]) / 2e-5
        found = float((slopes * along).sum())
        print(f"relative error {abs(found - expected) / abs(expected):.1e}")
        assert abs(found - expected) <= 1e-6 * abs(expected)


def test_deleted_rows_hold_and_rows_that_stay_push() -> None:
    """Exact retraining has no slope in what it deletes: without `hold` only rows that stay have one."""
    attack = Preconditioned(budget=6, rows=20, kappa=20.0, hold=0.0, solver=EXACT)
    [goal] = spread(0, 1)
    plan = plan_of([goal], attack)
    slopes = plan.measured(bed(0).task.records.x[plan.rows])[1]
    gone = plan.deleted[0, plan.rows] > 0
    assert int(gone.sum()) == 6
    assert not slopes[gone].any()
    assert bool(slopes[~gone].any(1).all())
    held = replace(plan, weight=1.0).measured(bed(0).task.records.x[plan.rows])[1]
    assert bool(held[gone].any(1).all())


def played(seeds: int, count: int, budget: int) -> dict[str, float]:
    """One target at a time: shares of targets, and accuracy, with deletion alone and random deletion beside."""
    rows = []
    for seed in range(seeds):
        of = bed(seed)
        for i, goal in enumerate(spread(seed, count)):
            given = contributed(
                Preconditioned(budget=budget), of.task, data(seed), [goal], of.attacker(), generator(seed, "a", i)
            )
            deleted = torch.zeros(3, TRAINING, dtype=torch.float64)
            deleted[1, given.requested[0]] = 1
            deleted[2, torch.randperm(TRAINING, generator=generator(seed, "r", i))[:budget]] = 1
            models = Retrain().forget(replace(of.task, records=given.records), of.victim, deleted, seed)
            alone = Retrain().forget(of.task, of.victim, deleted[1:2], seed)
            rates = [accuracy(each, seed) for each in (of.victim.copies(1), models, alone)]
            lost = [each.logits(goal.x)[:, 0].argmax(-1) != goal.labels[0] for each in (models, alone)]
            rows.append(torch.cat([*lost, *rates]).double())
    names = ("before", "after", "random", "alone", "clean", "with rows", "deleted", "random deleted", "alone deleted")
    mean = dict(zip(names, torch.stack(rows).mean(0).tolist(), strict=True))
    print(f"b = {budget}, n = {len(rows)}:", {name: round(value, 3) for name, value in mean.items()})
    return mean


def accuracy(models: ModelStack, seed: int) -> torch.Tensor:
    return (models.logits(bed(seed).test.x).argmax(-1) == bed(seed).test.y).double().mean(1)


@pytest.mark.parametrize(
    ("seeds", "count", "budget"),
    [(1, 3, 6), pytest.param(3, 20, 6, marks=pytest.mark.claims), pytest.param(3, 20, 15, marks=pytest.mark.claims)],
    ids=["few", "60 targets, 6", "60 targets, 15"],
)
def test_targets_keep_their_labels_until_the_deletion(seeds: int, count: int, budget: int) -> None:
    """Labels are kept before; after deletion at least as many are lost as by the same deletions without moved rows;
    random deletions lose far fewer (some, since no more than `kappa` holds a target), and accuracy stays within two
    points.
    """
    mean = played(seeds, count, budget)
    assert mean["before"] <= 0.05
    assert mean["after"] >= mean["alone"]
    assert mean["random"] <= mean["after"] - 0.5
    levels = [mean[name] for name in ("clean", "with rows", "deleted")]
    assert max(levels) - min(levels) <= 0.02


def test_what_is_handed_in() -> None:
    """No more rows than asked for, in their ball and among usual values, with their labels; so many are requested."""
    of, goals = bed(0), spread(0, 2)
    attack = Preconditioned(budget=4, rows=10, steps=2)
    given = contributed(attack, of.task, data(0), goals, of.attacker(), generator(0, "h"))
    moved = given.records.x - of.task.records.x
    changed = moved.any(1).nonzero()[:, 0]
    assert 0 < len(changed) <= 2 * 10
    assert float(moved.abs().max()) <= 0.3 + 1e-12
    low, high = bounds(of.task.records.x)
    assert bool(((given.records.x >= low) & (given.records.x <= high)).all())
    assert torch.equal(given.records.y, of.task.records.y)
    assert all(0 < len(each) <= 4 for each in given.requested)


def test_what_cannot_be_planned_is_said() -> None:
    of, [goal] = bed(0), spread(0, 1)
    with pytest.raises(UserError, match=r"raise attack\.rows or lower attack\.budget"):
        Preconditioned(rows=5, budget=6).check(data(0), Retrain(), "own")
    with pytest.raises(UserError, match=r"toward=3 is no label"):
        Preconditioned(toward=3).check(data(0), Retrain(), "own")
    with pytest.raises(UserError, match=r"lower attack\.rows"):
        contributed(Preconditioned(rows=30), of.task, data(0), [goal], of.attacker(torch.arange(20)), generator(0, "h"))


def test_a_game_is_played_on_the_moved_rows(tmp_path: Path) -> None:
    """Softmax regression on digits, for all targets of a game at once."""
    words = ("attack=preconditioned", "model=logistic", "defense=none")
    more = ("attack.rows=12", "attack.steps=3", "judge=quick", "data.train=120", "game.stream.reserved=0.1")
    record = cached(prepare(config(tmp_path, *words, *more)), 0)[0]
    assert all(0 < len(each["indices"]) <= 6 for each in record["requests"])
    assert (tmp_path / "store" / "contribution").is_dir()
