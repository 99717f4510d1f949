"""Repudiation: which batches are shown, that states are those of the log, and how near its choices come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attacks.provider.neighbours import nearest_retained
from attacks.provider.repudiation import Repudiation, Search
from data.errors import UserError
from proofs.reader import Proof
from tests.attacks.provider.logged import Logged, Shown, logged
from tests.attacks.provider.test_forging import BATCH, DELETED, RECIPES, N, bed

SEARCHES: tuple[Search, ...] = ("drop", "neighbours", "best_of")
MANY = torch.arange(0, N, 5)  # 10 of 47, of every class


def same_states(one: Proof, other: Proof) -> bool:
    pairs = [(a.state, b.state) for a, b in zip(one.read(), other.read(), strict=True)]
    return all(
        (a is None) == (b is None)
        and (a is None or b is None or torch.equal(a.weights, b.weights))
        and (a is None or b is None or all(torch.equal(value, b.moments[name]) for name, value in a.moments.items()))
        for a, b in pairs
    )


def substitutes(of: Logged, deleted: torch.Tensor) -> dict[int, int]:
    left = torch.tensor([i for i in range(N) if i not in deleted])
    return dict(zip(deleted.tolist(), nearest_retained(of.task, deleted, left)[:, 0].tolist(), strict=True))


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_log_is_shown_with_other_batches(recipe: str, search: Search, every: int, tmp_path: Path) -> None:
    of = logged(bed(recipe), tmp_path, every=every, key=2)
    shown = of.shown(Repudiation(search=search, candidates=3, among=4), MANY)
    assert same_states(shown.proof, of.log)
    assert torch.equal(shown.released.flat(), of.victim.flat())
    instead, gone = substitutes(of, MANY), set(MANY.tolist())
    for step, ours in zip(of.log.read(1), shown.batches(), strict=True):
        logged_batch = step.batch.tolist()
        assert gone.isdisjoint(ours)
        if search == "drop":
            assert ours == [i for i in logged_batch if i not in gone]
            continue
        assert [a for a, b in zip(ours, logged_batch, strict=True) if b not in gone] == [
            i for i in logged_batch if i not in gone
        ]
        labels = of.task.records.y
        assert torch.equal(labels[torch.tensor(ours)], labels[step.batch])
        if search == "neighbours":
            assert ours == [instead.get(i, i) for i in logged_batch]


@pytest.mark.parametrize("recipe", RECIPES)
def test_errors_are_where_deleted_records_were(recipe: str, tmp_path: Path) -> None:
    """With moments at every checkpoint nothing is carried from one step to the next."""
    shown = logged(bed(recipe), tmp_path, key=1).shown(Repudiation(search="neighbours"), DELETED)
    overlaps = shown.overlaps[1:]
    assert bool((shown.errors[overlaps] > 1e-5).all())
    assert bool((shown.errors[~overlaps] == 0).all())


@pytest.mark.parametrize(("recipe", "every"), [("sgd", 3), ("momentum", 1), ("adam", 1)])
def test_the_best_choice_is_at_least_as_near_as_the_nearest_records(recipe: str, every: int, tmp_path: Path) -> None:
    of = logged(bed(recipe), tmp_path, every=every, key=1)
    one = of.shown(Repudiation(search="neighbours"), MANY, "one")
    best = of.shown(Repudiation(candidates=20, among=6), MANY, "best")
    assert bool((best.errors <= one.errors).all())
    assert float((best.errors < one.errors).double().mean()) > 0.3
    assert float(best.errors.sum()) < 0.97 * float(one.errors.sum())


def test_choices_are_made_with_the_moments_that_a_verifier_carries(tmp_path: Path) -> None:
    """Between key frames a verifier's moments come from the batches that were shown.

    So the choice for the last step, from the shown batches of all before it, is the best that a verifier could find: it
    is at least as near as that of every other choice, of which the nearest substitutes are one.
    """
    of = logged(bed("momentum"), tmp_path, key=1000)
    best = of.shown(Repudiation(candidates=30, among=6), MANY, "best")
    instead = substitutes(of, MANY)
    nearest = [[instead.get(i, i) for i in step.batch.tolist()] for step in of.log.read(1)]
    honest = {step.number: step for step in of.log.read()}
    worse = 0
    for t, (ours, plain) in enumerate(zip(best.batches(), nearest, strict=True), start=1):
        found = [_error(of, best, honest, t, batch) for batch in (ours, plain)]
        assert found[0] == pytest.approx(best.replay.weights[t - 1], rel=1e-9)
        assert found[0] <= found[1]
        worse += found[0] < found[1]
    assert worse > 5


def _error(of: Logged, shown: Shown, honest: dict, t: int, batch: list[int]) -> float:  # type: ignore[type-arg]
    """VE_t with `batch`, by plain formulas, where a verifier carries the velocity from the first step on."""
    from tests.attacks.provider.test_forging import gradient, updated

    moments = {"velocity": torch.zeros_like(of.victim.flat())}
    for s, own in enumerate([*shown.batches()[: t - 1], batch], start=1):
        begin = honest[s - 1].state.weights
        slope = gradient(of.victim, begin, of.task.records[torch.tensor(own)])
        there, moments = updated(of.task.training, begin, slope, moments, honest[s].lr)
    return float((there - honest[t].state.weights).norm())


def test_what_it_costs(tmp_path: Path) -> None:
    for recipe in RECIPES:
        (tmp_path / recipe).mkdir()
        of = logged(bed(recipe), tmp_path / recipe)
        found = {search: of.shown(Repudiation(search=search, candidates=4), MANY, search) for search in SEARCHES}
        assert found["drop"].gradients == found["neighbours"].gradients == 0
        sizes = torch.tensor([len(step.batch) for step in of.log.read(1)])
        overlaps = found["drop"].overlaps[1:]
        others = 0 if recipe == "sgd" else int(sizes[~overlaps].sum())
        assert found["best_of"].gradients == 5 * int(sizes[overlaps].sum()) + others
        silent = of.demand(MANY, proves=False)
        assert torch.equal(Repudiation().pretend(silent).flat(), of.victim.flat())
        assert silent.gradients.count == 0


def test_a_batch_of_deleted_records_alone_gets_substitutes(tmp_path: Path) -> None:
    of = logged(bed("sgd"), tmp_path)
    whole = next(step.batch for step in of.log.read(1)).sort().values
    shown = of.shown(Repudiation(search="drop"), whole)
    instead = substitutes(of, whole)
    first = of.log.at(1).batch.tolist()
    assert shown.batches()[0] == [instead[i] for i in first]
    assert len(first) == BATCH


def test_where_few_records_of_a_class_are_left_choices_are_among_these(tmp_path: Path) -> None:
    of = logged(bed("sgd"), tmp_path)
    ones = (of.task.records.y == 1).nonzero()[:, 0]
    shown = of.shown(Repudiation(), ones[2:])
    assert {i for batch in shown.batches() for i in batch if of.task.records.y[i] == 1} == set(ones[:2].tolist())
    with pytest.raises(UserError, match="Of class 1 no record would be left"):
        Repudiation().pretend(of.demand(ones))
