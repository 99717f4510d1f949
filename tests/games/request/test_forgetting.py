"""What a game says about forgetting: against retraining done here, and for procedures that give no distance."""

from __future__ import annotations

from functools import partial
from math import isnan

import pytest
import torch
from torch import Tensor

import games.request.forgetting
from data.digits import Digits
from data.examples import Data
from games.request.forgetting import Forgetting
from models.mlp import MLP
from models.training import Training
from models.victim import Victim
from unlearning.first_order import FirstOrder
from unlearning.procedure import Procedure, Request, Task, forget
from unlearning.retrain import Retrain

REQUEST = (3, 7, 11, 50)


@pytest.fixture(scope="module")
def data() -> Data:
    return Digits(train=120, test=1377).load()


@pytest.fixture(scope="module")
def task(data: Data) -> Task:
    return Task(data.train, partial(MLP, shape=data.shape, classes=10, widths=[8]), Training(epochs=3))


@pytest.fixture(scope="module")
def victim(task: Task) -> Victim:
    return Retrain().learn(task, 0)


def row(task: Task, positions: tuple[int, ...]) -> Tensor:
    weights = torch.zeros(1, len(task.records))
    weights[0, list(positions)] = 1
    return weights


def of(procedure: Procedure, task: Task, victim: Victim, data: Data) -> Forgetting:
    return Forgetting(task, procedure, victim, 0, data.test.x)


def test_against_retraining_by_hand(task: Task, victim: Victim, data: Data) -> None:
    unlearned = forget(FirstOrder(), task, victim, Request(REQUEST), 0)
    retrained = forget(Retrain(), task, victim, Request(REQUEST), 0)
    models = FirstOrder().forget(task, victim, row(task, REQUEST), 0)
    found = of(FirstOrder(), task, victim, data).measure(models, row(task, REQUEST))
    gap = (unlearned.flat() - retrained.flat()).norm()
    assert found["distance"] == pytest.approx([float(gap)], rel=1e-5)
    whole = (victim.flat() - retrained.flat()).norm()
    assert found["relative_distance"] == pytest.approx([float(gap / whole)], rel=1e-5)
    p, q = unlearned.probabilities(data.test.x), retrained.probabilities(data.test.x)
    assert found["prediction_distance"] == pytest.approx([float((p - q).abs().sum(1).mean() / 2)], rel=1e-5)
    gone = torch.zeros(120, dtype=torch.bool)
    gone[list(REQUEST)] = True
    right = unlearned.probabilities(task.records.x).argmax(1) == task.records.y
    assert found["accuracy_deleted"] == [float(right[gone].double().mean())]
    assert found["accuracy_retained"] == pytest.approx([float(right[~gone].double().mean())])


def test_retraining_is_at_no_distance_of_itself(task: Task, victim: Victim, data: Data) -> None:
    exact = of(Retrain(), task, victim, data)
    deleted = row(task, REQUEST)
    found = exact.measure(Retrain().forget(task, victim, deleted, 0), deleted)
    assert found["distance"] == found["relative_distance"] == found["prediction_distance"] == [0.0]
    assert exact.in_sequence(REQUEST) == {"relative_distance": 0.0}  # the same batches, and the same weights in the end


def test_nothing_deleted_has_no_accuracy_on_the_deleted(task: Task, victim: Victim, data: Data) -> None:
    found = of(FirstOrder(), task, victim, data).measure(victim.copies(1), torch.zeros(1, 120))
    assert isnan(found["accuracy_deleted"][0])
    assert isnan(found["relative_distance"][0])  # retraining without anything less is the victim itself
    assert found["distance"] == [0.0]


def test_a_request_of_one_record_has_no_halves(task: Task, victim: Victim, data: Data) -> None:
    assert isnan(of(FirstOrder(), task, victim, data).in_sequence((3,))["relative_distance"])


def test_without_comparison_nothing_is_retrained(
    task: Task, victim: Victim, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(games.request.forgetting, "train", None)
    quick = Forgetting(task, FirstOrder(), victim, 0, data.test.x, compared=False)
    deleted = row(task, REQUEST)
    found = quick.measure(FirstOrder().forget(task, victim, deleted, 0), deleted)
    assert set(found) == {"accuracy_deleted", "accuracy_retained"}
    assert quick.in_sequence(REQUEST) == {}
    assert set(quick.seconds(deleted)) == {"forget_one"}


def test_seconds_are_positive(task: Task, victim: Victim, data: Data) -> None:
    seconds = of(FirstOrder(), task, victim, data).seconds(row(task, REQUEST))
    assert set(seconds) == {"forget_one", "retrain_one"}
    assert all(value > 0 for value in seconds.values())
