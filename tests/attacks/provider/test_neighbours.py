from functools import partial

import pytest
import torch
from torch import Tensor

from attacks.provider import neighbours
from attacks.provider.neighbours import nearest_retained, random_retained
from data.digits import Digits
from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.last_layer import features
from models.mlp import MLP
from models.training import Training
from models.victim import Victim
from unlearning.provable import drawn, retained
from unlearning.task import Task

ROUNDING = 1e-6  # of a cosine of 64 numbers in float32: 64 eps / 2 = 4e-6 at most, and far less as roundings cancel


def task_of(records: Examples) -> Task:
    return Task(records, partial(MLP, shape=tuple(records.x.shape[1:]), classes=10, widths=(16,)), Training())


def digits() -> tuple[Task, Tensor, Tensor]:
    data = Digits().load()
    task = task_of(data.train)
    deleted = torch.randperm(len(data.train), generator=generator(0, "deleted"))[:150]
    return task, deleted, retained(task, deleted)


def cosines(points: Tensor, deleted: Tensor, pool: Tensor) -> Tensor:
    """All of them (d, r), in float64."""
    points = points.double().flatten(1)
    points = points / points.norm(dim=1, keepdim=True)
    return points[deleted] @ points[pool].T


def check(found: Tensor, points: Tensor, task: Task, deleted: Tensor, pool: Tensor) -> None:
    """`found` (d, k) are of the pool and the class, distinct, and as similar as the k best by brute force."""
    assert torch.isin(found, pool).all()
    assert (task.records.y[found] == task.records.y[deleted][:, None]).all()
    assert all(len(row.unique()) == found.shape[1] for row in found)
    similar = cosines(points, deleted, pool)
    similar = similar.masked_fill(task.records.y[deleted][:, None] != task.records.y[pool], -torch.inf)
    best = similar.topk(found.shape[1], dim=1).values
    place = torch.searchsorted(pool, found)
    torch.testing.assert_close(similar.gather(1, place), best, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("numbers", [neighbours.NUMBERS, 64 * 5])  # the latter: parts of five records
def test_nearest_in_pixels_are_those_of_raw_pixels(k: int, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "NUMBERS", numbers)
    data = Digits().load()
    task, deleted, pool = digits()
    raw = task.records.x.double() * data.std + data.mean
    check(nearest_retained(task, deleted, pool, k=k), raw, task, deleted, pool)


@pytest.mark.parametrize("k", [1, 3])
def test_nearest_in_features_are_those_of_the_victim(k: int) -> None:
    task, deleted, pool = digits()
    victim: Victim = drawn(task, 0)
    found = nearest_retained(task, deleted, pool, "features", victim, k)
    check(found, features(victim, task.records.x), task, deleted, pool)
    assert not torch.equal(found, nearest_retained(task, deleted, pool, k=k))
    with pytest.raises(ValueError, match="Features are those of a model"):
        nearest_retained(task, deleted, pool, "features")


def test_of_a_table_every_feature_begins_at_its_smallest_value() -> None:
    x = torch.randn(60, 4, generator=generator(0, "x")) * 3 - 50
    task = task_of(Examples(x, torch.arange(60) % 2))
    deleted = torch.arange(7)
    pool = retained(task, deleted)
    check(nearest_retained(task, deleted, pool), x.double() - x.double().amin(0), task, deleted, pool)


def test_a_copy_is_found_and_a_blank_record_is_no_trouble() -> None:
    task, deleted, pool = digits()
    x = task.records.x.clone()
    copy = pool[task.records.y[pool] == task.records.y[deleted[0]]][7]
    x[copy] = x[deleted[0]]
    x[deleted[1]] = x.min()  # no ink at all: similar to nothing
    found = nearest_retained(task_of(Examples(x, task.records.y)), deleted, pool)
    assert found[0] == copy
    assert task.records.y[found[1]] == task.records.y[deleted[1]]


def test_random_substitutes_are_uniform_over_the_class() -> None:
    task, deleted, pool = digits()
    found = random_retained(task, deleted[:1], pool, generator(0, "draws"), 40_000)[0]
    own = pool[task.records.y[pool] == task.records.y[deleted[0]]]
    assert torch.isin(found, own).all()
    counts = torch.bincount(torch.searchsorted(own, found), minlength=len(own)).double()
    expected = 40_000 / len(own)
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi - (len(own) - 1)) < 4 * (2 * (len(own) - 1)) ** 0.5  # four standard deviations of chi squared
    again = random_retained(task, deleted, pool, generator(1, "draws"))
    assert again.shape == (150, 1)
    assert (task.records.y[again[:, 0]] == task.records.y[deleted]).all()


@pytest.mark.parametrize("find", [nearest_retained, partial(random_retained, rng=generator(0, "draws"))])
def test_a_class_of_which_nothing_is_left_is_refused(find) -> None:  # type: ignore[no-untyped-def]
    task, _, _ = digits()
    deleted = (task.records.y == 4).nonzero()[:, 0]
    with pytest.raises(UserError, match="Of class 4 no record would be left"):
        find(task, deleted, retained(task, deleted))
    with pytest.raises(UserError, match="Of class 4 only 2 records would be left, and 3 must stand in"):
        nearest_retained(task, deleted[2:], retained(task, deleted[2:]), k=3)
