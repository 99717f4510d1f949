"""Copies near the boundary on digits: what they do to a class, against unlearning the records themselves."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch

from attacks.crafting.attack import Attacker, AttackGoal
from attacks.requester.over_unlearning import OverUnlearning
from data.digits import Digits
from data.examples import Data
from data.randomness import generator
from models.gradients import gradient_norms
from models.mlp import MLP
from models.training import Training
from models.victim import Victim, forward
from unlearning.first_order import FirstOrder
from unlearning.learning import plain_learning
from unlearning.procedure import Request, Task, forget
from unlearning.retrain import Retrain
from unlearning.service import Meter, OpenService, serve

STEP = FirstOrder(rate=10.0)
CLASSES, SEEDS, METHODS = (1, 3, 8), (0, 1), ("blending", "pushing_1", "pushing_2")


@cache
def digits() -> Data:
    return Digits(train=900, trusted=50, auxiliary=50).load()


@cache
def task() -> Task:
    data = digits()
    build = partial(MLP, shape=data.shape, classes=10, widths=[32])
    return Task(data.train, build, Training(epochs=30, weight_decay=5e-4))


@cache
def victim(seed: int) -> Victim:
    return plain_learning(task(), seed)


@cache
def request(method: str, budget: int, label: int, seed: int) -> tuple[Request, Meter]:
    meter = Meter()
    service = serve(OpenService(task(), STEP, (victim(seed),), (seed,), meter), 1)
    goal = AttackGoal(digits().test.x[:1], torch.tensor([label]), 1)
    attacker = Attacker(torch.arange(900), digits().train, digits().auxiliary)
    attack = OverUnlearning(budget=budget, method=method)  # type: ignore[arg-type]
    [found] = attack.craft([service], [goal], attacker, generator(seed, "attack"))
    return found.request, meter


def on_class(model: Victim, label: int | None) -> float:
    """Accuracy on the test images of a class, or of all."""
    test = digits().test if label is None else digits().test[digits().test.y == label]
    return float((model.logits(test.x).argmax(-1) == test.y).double().mean())


def accuracies(method: str, budget: int, overall: bool = False) -> torch.Tensor:
    """Accuracy after unlearning the records, and after their copies, for every class and victim, (c, 2)."""
    found = []
    for label in CLASSES:
        for seed in SEEDS:
            asked = request(method, budget, label, seed)[0]
            models = [forget(STEP, task(), victim(seed), each, seed) for each in (Request(asked.indices), asked)]
            found.append([on_class(model, None if overall else label) for model in models])
    return torch.tensor(found)


@pytest.mark.parametrize("method", ["blending", "pushing_1"])
def test_the_class_loses_more_than_by_honest_unlearning(method: str) -> None:
    """More records hurt more; pushing by more than 3 standard errors over classes and victims, blending by 2."""
    found = [accuracies(method, budget) for budget in (9, 22, 45)]
    honest, attacked = (torch.stack([each.mean(0) for each in found])[:, k].tolist() for k in (0, 1))
    print(method, "honest", honest, "attacked", attacked)
    assert attacked == sorted(attacked, reverse=True)
    lost = found[-1][:, 0] - found[-1][:, 1]
    assert float(lost.mean()) > (3 if method == "pushing_1" else 2) * float(lost.std() / len(lost) ** 0.5)


def test_points_beyond_the_boundary_cost_other_classes_accuracy() -> None:
    """Their label is the other class's, so that it is this one that is unlearned: the model as a whole loses."""
    found = [accuracies("pushing_2", budget, overall=True).mean(0) for budget in (9, 22, 45)]
    print("pushing_2, all classes: honest, attacked", found)
    attacked = [float(each[1]) for each in found]
    assert attacked == sorted(attacked, reverse=True)
    assert float(found[-1][0]) - attacked[-1] > 0.3
    own = accuracies("pushing_2", 45).mean(0)
    assert float(own[1]) > float(own[0])


def test_points_are_where_they_should_be() -> None:
    """Before the boundary all keep their label, after it none does; the label submitted is the one predicted."""
    for label in CLASSES:
        for method in METHODS:
            asked, model = request(method, 22, label, 0)[0], victim(0)
            assert asked.examples is not None
            stored = digits().train[list(asked.indices)]
            assert bool((stored.y == label).all())
            before, now = (model.logits(x).argmax(-1) for x in (stored.x, asked.examples.x))
            assert torch.equal(asked.examples.y, now)
            if method == "pushing_1":
                assert torch.equal(before, now)
            if method == "pushing_2":
                assert bool((before != now).all())
            assert float((asked.examples.x - stored.x).flatten(1).norm(dim=1).max()) <= 20.0 + 1e-4


def test_slopes_are_larger_near_the_boundary() -> None:
    """The mechanism: loss and gradient grow as the margin shrinks."""
    asked = request("pushing_1", 45, 3, 0)[0]
    assert asked.examples is not None
    stored = digits().train[list(asked.indices)]
    near, far = (gradient_norms(victim(0), each) for each in (asked.examples, stored))
    assert float((near > far).double().mean()) >= 0.95


def test_only_predictions_are_asked_for() -> None:
    meter = request("pushing_1", 9, 3, 0)[1]
    assert (meter.queries, meter.operator_calls) == (0, 0)
    assert meter.predictions > 9 * 40


def test_every_axis_can_be_asked_for() -> None:
    """The slope then is that of the margin, up to rounding; with few directions a rough one."""
    model, x = victim(0), digits().train.x[:4].double()
    double = Victim(
        model.module.double(), *[{k: v.double() for k, v in each.items()} for each in (model.parameters, model.buffers)]
    )
    service = serve(OpenService(task(), STEP, (double,), (0,)), 1)
    label = double.logits(x).argmax(-1)
    found = OverUnlearning(directions=None, smoothing=1e-5)._slopes(service, x, label, generator(0, "u"))
    moving = x.clone().requires_grad_()
    log_p = forward(double.module, double.parameters, double.buffers, moving).log_softmax(-1)
    own = log_p.gather(1, label[:, None])[:, 0]
    margin = own - log_p.scatter(1, label[:, None], -torch.inf).amax(1)
    [expected] = torch.autograd.grad(margin.sum(), [moving])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_retraining_from_stored_records_is_not_affected() -> None:
    asked = request("pushing_1", 9, 3, 0)[0]
    models = [forget(Retrain(), task(), victim(0), each, 0) for each in (asked, Request(asked.indices))]
    assert torch.equal(models[0].flat(), models[1].flat())
