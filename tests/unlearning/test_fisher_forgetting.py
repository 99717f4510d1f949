"""Fisher forgetting: its variance against closed forms and plain loops, and its noise against its variance."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import UserError
from models.training import Training
from models.victim import Victim, unflatten
from tests.attacks.checks import bed
from tests.models import problems
from tests.testbed import TRAINING
from unlearning.fisher_forgetting import FisherForgetting
from unlearning.procedure import Request, Task, as_weights, forget

N = problems.N
UNCAPPED = FisherForgetting(alpha=1e-4, cap=1e12)


def problem(name: str = "mlp") -> tuple[Task, Victim]:
    return Task(problems.examples(name), problems.BUILDS[name], Training()), problems.victim(name)


def rows(*requests: tuple[int, ...]) -> Tensor:
    return as_weights([Request(request) for request in requests], problems.examples("mlp"))


def fisher_by_a_loop(task: Task, victim: Victim, retained: list[int]) -> Tensor:
    """Mean over records of sum_y p(y|x) (d log p(y|x))^2 (p,), one backward pass for each record and label."""
    theta = victim.flat().clone().requires_grad_()
    total = torch.zeros_like(theta)
    for i in retained:
        parameters = unflatten(theta, victim.parameters)
        logits = torch.func.functional_call(victim.module, (parameters, victim.buffers), (task.records.x[i : i + 1],))
        log_p = F.log_softmax(logits, dim=1)[0]
        for value in log_p:
            total += value.exp().detach() * torch.autograd.grad(value, theta, retain_graph=True)[0] ** 2
    return (total / len(retained)).detach()


def test_closed_form_of_softmax_regression() -> None:
    """F of weight (c, k) is the mean of p_c (1 - p_c) x_k^2, and of a bias with x_k = 1; to 1e-8."""
    of = bed(0)
    deleted = as_weights([Request((0, 5, 9))], of.task.records)
    x, p = of.task.records.x, of.victim.probabilities(of.task.records.x)
    keep = deleted[0] == 0
    weight, bias = (torch.einsum("nc,nk->nck", p * (1 - p), each)[keep].mean(0) for each in (x**2, x[:, :1] ** 0))
    expected = torch.cat([weight.reshape(-1), bias.reshape(-1)])
    found = UNCAPPED.alpha / UNCAPPED.variance(of.task, of.victim, deleted)[0] - 1e-8
    assert ((found - expected) / expected).abs().max() < 1e-8


@pytest.mark.parametrize("name", ["mlp", "cnn", "batch_norm"])
@pytest.mark.parametrize("gone", [(), (0, 7)], ids=["fresh", "sequential"])
def test_variance_equals_a_plain_loop(name: str, gone: tuple[int, ...]) -> None:
    """Single records and labels, not batch means; earlier deletions are not retained. exponent 1 and 0.5."""
    task, victim = problem(name)
    task = task.without(Request(gone)) if gone else task
    deleted = rows((1,), (2, 3, 4), (), tuple(range(1, 7)))
    one, half = UNCAPPED.variance(task, victim, deleted), FisherForgetting(exponent=0.5).variance(task, victim, deleted)
    for j, row in enumerate(deleted):
        fisher = fisher_by_a_loop(task, victim, [i for i in range(N) if row[i] == 0 and i not in gone])
        assert ((UNCAPPED.alpha / one[j] - 1e-8 - fisher).abs() < 1e-8 * fisher + 1e-12).all()
        assert (half[j] - 1e-6 * (fisher + 1e-8).rsqrt().clamp(max=1e3)).abs().max() < 1e-12


def test_the_cap_bounds_the_inverse() -> None:
    task, victim = problem()
    variance = FisherForgetting(alpha=1e-3, cap=20.0).variance(task, victim, rows((1,)))
    assert variance.max() == pytest.approx(0.02)
    assert (variance < 0.0199).any()


def test_sampled_variance_is_the_variance() -> None:
    """Within 5% over 1,000 draws, pooled over each tensor of T; the pooled estimate has a standard error of
    at most sqrt(2 / 3000) = 2.6% (the bias has 3 entries)."""
    of = bed(0)
    deleted = as_weights([Request((0, 1, 2))], of.task.records)
    variance = UNCAPPED.variance(of.task, of.victim, deleted)[0]
    draws = torch.cat([UNCAPPED.forget(of.task, of.victim, deleted, seed).flat() for seed in range(1000)])
    ratios = unflatten((draws - of.victim.flat()).square().mean(0) / variance, of.victim.parameters)
    for ratio in ratios.values():
        assert ratio.mean() == pytest.approx(1, abs=0.05)
    mean = (draws - of.victim.flat()).mean(0) / variance.sqrt()
    assert mean.abs().max() < 4.5 / 1000**0.5  # 33 standard normals: 2e-4 of a false alarm


def test_all_requests_share_one_draw() -> None:
    task, victim = problem()
    deleted = rows((1,), (), (5, 6, 7))
    moved = UNCAPPED.forget(task, victim, deleted, 4).flat() - victim.flat()
    noise = moved / UNCAPPED.variance(task, victim, deleted).sqrt()
    assert (noise - noise[0]).abs().max() < 1e-9
    four, five = (UNCAPPED.forget(task, victim, deleted, seed).flat() for seed in (4, 5))
    assert not torch.allclose(four, five)


def test_no_row_of_a_class_is_zeroed() -> None:
    """Even where a whole class is deleted its weights stay within a few standard deviations."""
    of = bed(0)
    everyone = tuple((of.task.records.y == 1).nonzero()[:, 0].tolist())
    deleted = as_weights([Request(everyone)], of.task.records)
    procedure = FisherForgetting()
    moved = (forget(procedure, of.task, of.victim, Request(everyone), 0).flat() - of.victim.flat()).abs()
    assert (moved < 5 * procedure.variance(of.task, of.victim, deleted)[0].sqrt()).all()
    assert 5 * procedure.variance(of.task, of.victim, deleted).max().sqrt() < 0.1 * of.victim.flat().abs().max()


def test_the_rules_of_the_authors_code() -> None:
    """`averaged`, tensor by tensor; the network's last hidden layer has as many units as classes, which the rule takes
    for the last layer, as the code does."""
    task, victim = problem("cnn")
    fisher = fisher_by_a_loop(task, victim, list(range(1, N)))
    expected = []
    for value in unflatten(fisher, victim.parameters).values():
        last = len(value) == 3
        spread = (1 / (value + 1e-8)).clamp(max=50.0)
        spread = spread.clamp(max=5.0) if last else spread
        if value.dim() > 1:
            spread = spread.mean(dim=1, keepdim=True).expand_as(value)
        expected.append((spread * (10 if last or value.dim() == 1 else 1)).reshape(-1))
    found = FisherForgetting(alpha=1e-3, cap=50.0, averaged=True).variance(task, victim, rows((0,), ()))[0]
    assert (found / 1e-3 - torch.cat(expected)).abs().max() < 1e-6


def test_the_kept_sum_is_that_of_the_task() -> None:
    """The sum over all records is kept with the victim; another task of the same victim has another sum."""
    task, victim = problem()
    later = task.without(Request((0, 7)))
    for each in (task, later, task):
        expected = UNCAPPED.variance(each, problems.victim("mlp"), rows((1,)))
        assert torch.equal(UNCAPPED.variance(each, victim, rows((1,))), expected)


def test_fractions_weigh_the_mean() -> None:
    """Half of a record's weight deleted: the mean between with it and without it, weighted by what is left."""
    task, victim = problem()

    def fisher(row: Tensor) -> Tensor:
        return UNCAPPED.alpha / UNCAPPED.variance(task, victim, row)[0] - 1e-8

    whole, half = rows((3,)), 0.5 * rows((3,))
    expected = (0.5 * N * fisher(0 * whole) + 0.5 * (N - 1) * fisher(whole)) / (N - 0.5)
    assert (fisher(half) - expected).abs().max() < 1e-9 * expected.max()


@pytest.mark.parametrize("name", ["mlp", "batch_norm"])
def test_rows_are_independent_and_the_victim_is_left_as_it_is(name: str) -> None:
    """As every procedure owes it."""
    task, victim = problem(name)
    deleted = rows((1, 2), (), (3,), (2, 4, 5))
    before = [value.clone() for value in (*victim.parameters.values(), *victim.buffers.values())]
    flags = [parameter.requires_grad for parameter in victim.module.parameters()]
    models = FisherForgetting().forget(task, victim, deleted, 0)
    for row, model in zip(deleted, models.flat(), strict=True):
        alone = FisherForgetting().forget(task, victim, row[None], 0).flat()[0]
        assert (alone - model).abs().max() < 1e-12 * (1 + model.abs().max())
    assert not torch.equal(models[1].flat(), victim.flat())
    after = (*victim.parameters.values(), *victim.buffers.values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(layer.training for layer in victim.module.modules())
    assert flags == [parameter.requires_grad for parameter in victim.module.parameters()]


def test_records_must_stay() -> None:
    of = bed(0)
    with pytest.raises(UserError, match="deletes all"):
        forget(FisherForgetting(), of.task, of.victim, Request(tuple(range(TRAINING))), 0)
