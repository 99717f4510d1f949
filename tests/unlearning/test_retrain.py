from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from data.digits import Digits
from data.examples import Examples
from models.gradients import objective_gradient
from models.mlp import MLP
from models.training import Training
from tests.attacks.checks import bed
from tests.testbed import LAMBDA, TRAINING
from unlearning.procedure import Request, Task, forget
from unlearning.retrain import Retrain


def test_ends_at_the_stationary_point_of_the_retained_objective() -> None:
    of = bed(0)
    deleted = torch.zeros(3, TRAINING, dtype=torch.float64)
    deleted[0, :10], deleted[1, 50:90], deleted[2, ::2] = 1, 1, 0.5
    models = Retrain().forget(of.task, of.victim, deleted, of.seed)
    for i in range(3):
        slope = objective_gradient(models[i], of.task.records, deleted[i : i + 1], LAMBDA / TRAINING)
        assert slope.norm() < 1e-9


def test_equals_training_without_the_records_under_the_same_sum_form() -> None:
    """Deletion keeps n and the regulariser: the same optimum as n' retained records with weight decay Lambda/n'."""
    of, out = bed(0), tuple(range(40))
    kept = of.task.records[torch.arange(40, TRAINING)]
    other = Task(kept, of.task.build, replace(of.task.training, weight_decay=LAMBDA / len(kept)))
    direct = Retrain().learn(other, of.seed)
    assert (forget(Retrain(), of.task, of.victim, Request(out), of.seed).flat() - direct.flat()).norm() < 1e-8


def test_deleted_records_do_not_matter_and_order_does_not_either() -> None:
    of = bed(0)
    noisy = of.task.records.x.clone()
    noisy[:5] += 100
    changed = replace(of.task, records=Examples(noisy, of.task.records.y))
    request = Request((0, 1, 2, 3, 4))
    plain = forget(Retrain(), of.task, of.victim, request, 0).flat()
    assert (forget(Retrain(), changed, of.victim, request, 0).flat() - plain).norm() < 1e-8
    first = forget(Retrain(), of.task, of.victim, Request((3, 0)), 0)
    second = forget(Retrain(), of.task.without(Request((3, 0))), first, Request((4, 2, 1)), 0)
    assert (second.flat() - plain).norm() < 1e-8


def test_forgotten_rows_may_hold_anything_bit_by_bit() -> None:
    """For sets that retrain together by SGD, each with its rows at weight 0."""
    data = Digits(train=120, test=1377).load()
    build = partial(MLP, shape=data.shape, classes=10, widths=[8])
    task = Task(data.train, build, Training(epochs=3, batch_size=32))
    victim, deleted = Retrain().learn(task, 0), torch.zeros(2, 120)
    deleted[0, :10], deleted[1, 5:40] = 1, 1
    plain = Retrain().forget(task, victim, deleted, 0)
    assert torch.equal(plain.flat(), Retrain().forget(task, victim, deleted, 0).flat())
    x, y = data.train.x.clone(), data.train.y.clone()
    x[5:10], y[5:10] = -7.5, 3  # the rows that both sets forget
    other = Retrain().forget(replace(task, records=Examples(x, y)), victim, deleted, 0)
    assert torch.equal(plain.flat(), other.flat())
