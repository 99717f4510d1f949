"""Uncertainty functionals against closed forms, and end to end where they need more than one model."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from attacks.crafting.attack import AttackGoal
from attacks.crafting.functionals import (
    Confidence,
    ConformalSetSize,
    EnsembleEntropy,
    Entropy,
    Functional,
    LogitGap,
    Margin,
    McDropout,
    averaged,
    margins,
)
from attacks.requester.uncertainty import Uncertainty
from data.errors import UserError
from data.randomness import generator
from metrics import conformal
from models.mlp import MLP
from models.training import Training
from models.victim import Victim
from tests.attacks.checks import bed, labels, opened
from unlearning.first_order import FirstOrder
from unlearning.procedure import Task, as_weights
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.service import OpenService

ALL: list[Functional] = [
    Confidence(),
    Entropy(),
    Margin(),
    LogitGap(),
    McDropout(),
    McDropout(quantity="epistemic"),
    EnsembleEntropy(),
    EnsembleEntropy(quantity="epistemic"),
    ConformalSetSize(),
]


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=generator(seed, "logits"), dtype=torch.float64)


def entropy(p: Tensor) -> Tensor:
    return -(p * p.log()).sum(-1)


def test_values_are_the_closed_forms() -> None:
    logits = draw(6, 5, 4)  # S, T, K
    log_p, label = logits.log_softmax(-1), torch.tensor([0, 1, 2, 3, 0])
    p = log_p.exp().mean(0)
    top = p.sort(-1).values
    others = [max(float(p[t, k]) for k in range(4) if k != label[t]) for t in range(5)]
    ratio = p[torch.arange(5), label].log() - torch.tensor(others, dtype=torch.float64).log()
    total, inner = entropy(p) / torch.tensor(4.0).log(), entropy(log_p.exp()).mean(0) / torch.tensor(4.0).log()
    expected = {
        Confidence(): 1 - p[torch.arange(5), label],
        Entropy(): total,
        Margin(): top[:, -2] - top[:, -1],
        LogitGap(): -ratio,
        McDropout(): total,
        McDropout(quantity="epistemic"): total - inner,
        EnsembleEntropy(): total,
        EnsembleEntropy(quantity="epistemic"): total - inner,
    }
    for functional, value in expected.items():
        assert (functional(log_p, label) - value).abs().max() < 1e-6  # log 4 above is in float32
        batched = functional(log_p[None].expand(3, -1, -1, -1), label[None].expand(3, -1))
        assert (batched - functional(log_p, label)).abs().max() < 1e-12


def test_margins_are_differences_of_logits() -> None:
    logits, label = draw(7, 3), torch.arange(7) % 3
    found = margins(logits.log_softmax(-1), label)
    for row, k, value in zip(logits, label, found, strict=True):
        assert abs(float(row[k] - row[torch.arange(3) != k].max() - value)) < 1e-12
    assert (averaged(draw(5, 7, 3).log_softmax(-1)).exp().sum(-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("functional", ALL, ids=repr)
@pytest.mark.parametrize("scale", [1.0, 200.0, 1e4])
def test_gradients_are_finite_and_right(functional: Functional, scale: float) -> None:
    """Also where probabilities underflow; at an ordinary scale against central differences."""
    logits, known = draw(2, 4, 3, scale=scale).requires_grad_(), draw(2, 30, 3, seed=1).log_softmax(-1)
    label, truth = torch.tensor([0, 1, 2, 0]), torch.arange(30) % 3

    def value(z: Tensor) -> Tensor:
        return functional(z.log_softmax(-1), label, (known, truth)).sum()

    slope = torch.autograd.grad(value(logits), logits)[0]
    assert torch.isfinite(value(logits))
    assert torch.isfinite(slope).all()
    if scale == 1.0:
        direction = draw(2, 4, 3, seed=2)
        with torch.no_grad():
            difference = (value(logits + 1e-6 * direction) - value(logits - 1e-6 * direction)) / 2e-6
        assert abs(float((slope * direction).sum() - difference)) < 1e-7


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 4))
def test_bounds_and_direction(seed: int, classes: int, sampled: int) -> None:
    """u lies where its docstring says, and sharpening a prediction lowers it."""
    log_p = draw(sampled, 3, classes, seed=seed).log_softmax(-1)
    label = averaged(log_p).argmax(-1)
    for functional, low, high in ((Confidence(), 0, 1), (Entropy(), 0, 1), (Margin(), -1, 0), (McDropout(), 0, 1)):
        u = functional(log_p, label)
        assert ((u >= low - 1e-12) & (u <= high + 1e-12)).all()
    assert (McDropout(quantity="epistemic")(log_p, label) >= -1e-12).all()
    one = log_p[:1]
    sharp, label = (3 * one).log_softmax(-1), one[0].argmax(-1)
    for functional in (Confidence(), Entropy(), Margin(), LogitGap()):
        assert (functional(sharp, label) <= functional(one, label) + 1e-12).all()


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.45])
def test_conformal_size_becomes_the_hard_count(alpha: float) -> None:
    """As the temperature goes to 0, the number of classes in the split-conformal set of the metric."""
    log_p, known = draw(1, 40, 4).log_softmax(-1), draw(1, 99, 4, seed=1).log_softmax(-1)
    truth = known[0].argmax(-1)
    threshold = conformal.quantile(conformal.scores(known[0].exp(), truth), alpha)
    hard = conformal.prediction_sets(log_p[0].exp(), threshold).sum(1)
    sharp = ConformalSetSize(alpha=alpha, temperature=1e-7)
    assert (sharp(log_p, torch.zeros(40).long(), (known, truth)) - hard).abs().max() < 1e-3
    few = ConformalSetSize(alpha=0.01)(log_p, torch.zeros(40).long(), (known[:, :9], truth[:9]))
    assert torch.equal(
        few, torch.full((40,), 4.0, dtype=torch.float64)
    )  # too few calibration points: every set is full


def test_bad_settings_are_refused() -> None:
    for bad in (
        partial(McDropout, samples=1),
        partial(EnsembleEntropy, members=1),
        partial(ConformalSetSize, alpha=1.0),
    ):
        with pytest.raises(ValidationError):
            bad()
    assert [f.from_probabilities for f in ALL] == [True, True, True, True, False, False, True, False, True]
    of, attack = bed(0), Uncertainty(budget=2, functional=McDropout(samples=2))
    with pytest.raises(UserError, match="model with dropout"):
        attack.craft([opened(of)], of.goals(of.targets(1)), of.attacker(), generator(0, "a"))


def dropout_task() -> Task:
    of = bed(0)
    build = partial(MLP, shape=(10,), classes=3, widths=(8,), dropout=0.3)
    return Task(of.task.records, build, Training(epochs=10, lr=0.2))


def test_mc_dropout_end_to_end() -> None:
    """White-box through a Newton step: the averaged prediction becomes less certain, seen through the same masks."""
    of, task = bed(0), dropout_task()
    victim = Retrain().learn(task, 0)
    goals = [AttackGoal(of.test.x[i : i + 1], victim.logits(of.test.x[i : i + 1]).argmax(1), 1) for i in of.targets(2)]
    attack = Uncertainty(budget=8, functional=McDropout(samples=4), feasible_first=False, keep=0, keep_reference=0)
    found = attack.craft(
        [OpenService(task, SecondOrder(), (victim,), (0,))], goals, of.attacker(), generator(0, "attack")
    )
    for each in found:
        assert each.objective == each.curve[-1] < each.curve[0]
        assert 0 < len(each.request) <= 8


def test_ensembles_end_to_end() -> None:
    """Three victims, attacked through the mean of their predictions; the claim is what the three models then say."""
    of, victims = bed(0), [bed(0).victim]
    for seed in (1, 2):
        step = 0.2 * torch.randn(1, 33, generator=generator(seed, "member"), dtype=torch.float64)
        victims.append(of.victim.moved(step)[0])
    p = torch.stack([victim.probabilities(of.test.x) for victim in victims]).mean(0)
    goals = [AttackGoal(of.test.x[i : i + 1], p[i : i + 1].argmax(1), -1) for i in of.targets(3)]
    service = OpenService(of.task, FirstOrder(rate=20), tuple(victims), (0, 1, 2))
    found = Uncertainty(budget=10, functional=EnsembleEntropy(members=3)).craft(
        [service], goals, of.attacker(), generator(0, "attack")
    )
    rows = as_weights([each.request for each in found], of.task.records)
    after = [FirstOrder(rate=20).forget(of.task, victim, rows, 0) for victim in victims]

    def mean(models: list[Victim], goal: AttackGoal) -> Tensor:
        return torch.stack([model.probabilities(goal.x)[0] for model in models]).mean(0)

    for i, (each, goal) in enumerate(zip(found, goals, strict=True)):
        q = mean([models[i] for models in after], goal)
        assert abs(float(entropy(q)) / torch.tensor(3.0).double().log() - each.objective) < 1e-9
        assert entropy(q) < entropy(mean(victims, goal))
        assert q.argmax() == labels(goals)[i]
    assert service.meter.operator_calls % 3 == 0
