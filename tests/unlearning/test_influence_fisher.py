"""Influence unlearning with the whole empirical Fisher matrix, against its formula written densely."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import unlearning.influence_fisher
from data.errors import UserError
from data.randomness import generator
from models.gradients import per_example_gradients
from models.training import Training
from models.victim import Victim
from tests.models import problems
from unlearning.influence_fisher import InfluenceFisher
from unlearning.procedure import Request, Task, as_weights, forget

N = problems.N
EVERY = InfluenceFisher(alpha=0.5, damping=0.1, samples=N)


def problem(name: str = "mlp") -> tuple[Task, Victim]:
    return Task(problems.examples(name), problems.BUILDS[name], Training()), problems.victim(name)


def rows(*requests: tuple[int, ...]) -> Tensor:
    return as_weights([Request(request) for request in requests], problems.examples("mlp"))


def written_out(procedure: InfluenceFisher, task: Task, victim: Victim, deleted: Tensor, sample: Tensor) -> Tensor:
    """theta + alpha F^{-1} v for one request, with sums over lists of positions and a dense F."""
    gone = torch.zeros(N) if task.forgotten is None else task.forgotten
    forgotten = [i for i in range(N) if deleted[i] == 1 and gone[i] == 0]
    retained = [i for i in range(N) if deleted[i] == 0 and gone[i] == 0]
    g = per_example_gradients(victim, task.records)
    total = len(forgotten) + len(retained)
    v = g[forgotten].sum(0) / total - len(forgotten) / (total * len(retained)) * g[retained].sum(0)
    used = g[[i for i in sample.tolist() if i in retained]]
    fisher = procedure.damping * torch.eye(g.shape[1], dtype=g.dtype) + used.T @ used / len(used)
    return victim.flat() + procedure.alpha * torch.linalg.solve(fisher, v)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "batch_norm"])
@pytest.mark.parametrize("gone", [(), (0, 7)], ids=["fresh", "sequential"])
def test_equals_the_formula_with_a_dense_fisher(name: str, gone: tuple[int, ...]) -> None:
    """F^{-1} v to 1e-8, here in steps of norm about one; earlier deletions count in no sum."""
    task, victim = problem(name)
    task = task.without(Request(gone)) if gone else task
    deleted = rows((1,), (2, 3, 4), tuple(range(1, 7)), ())
    found = EVERY.forget(task, victim, deleted, 0).flat()
    for row, model in zip(deleted, found, strict=True):
        expected = written_out(EVERY, task, victim, row, torch.arange(N))
        assert (model - expected).norm() < 1e-8 * (expected - victim.flat()).norm().clamp_min(1e-8)


@pytest.mark.parametrize("gone", [(), (0, 7)], ids=["fresh", "sequential"])
def test_all_requests_share_the_sample_and_leave_its_mean(gone: tuple[int, ...]) -> None:
    task, victim = problem()
    task = task.without(Request(gone)) if gone else task
    order = torch.randperm(N, generator=generator(3, "Fisher sample"))
    sample = torch.tensor([i for i in order.tolist() if i not in gone][:5])
    deleted = rows((1,), (int(sample[0]), int(sample[3])), (2, 3, 4))
    procedure = InfluenceFisher(alpha=0.5, damping=0.1, samples=5)
    for row, model in zip(deleted, procedure.forget(task, victim, deleted, 3).flat(), strict=True):
        expected = written_out(procedure, task, victim, row, sample)
        assert (model - expected).norm() < 1e-8 * (expected - victim.flat()).norm()


def test_the_correction_has_the_rank_of_the_sample() -> None:
    """The official recursion moves F^{-1} v - v along the first gradient only."""
    task, victim = problem()
    deleted = torch.eye(N, dtype=torch.float64)
    procedure = InfluenceFisher(alpha=1.0, damping=0.1, samples=4)
    steps = procedure.forget(task, victim, deleted, 0).flat() - victim.flat()
    g = per_example_gradients(victim, task.records)
    v = (g - (g.sum(0) - g) / (N - 1)) / N
    assert torch.linalg.matrix_rank(steps - v / 0.1, rtol=1e-10) == 4


def test_a_step_raises_the_loss_of_what_is_deleted() -> None:
    """To first order the loss of D_f rises more than that of D_r, since the slope is v'F^{-1}v > 0."""
    task, victim = problem()
    deleted, small = rows((1, 4, 8))[0].bool(), InfluenceFisher(alpha=1e-3, damping=0.1, samples=N)
    model = small.forget(task, victim, deleted.double()[None], 0)[0]

    def loss(of: Victim) -> Tensor:
        return torch.nn.functional.cross_entropy(of.logits(task.records.x), task.records.y, reduction="none")

    change = loss(model) - loss(victim)
    assert change[deleted].mean() > change[~deleted].mean()


def test_the_seed_draws_the_sample_and_nothing_else() -> None:
    task, victim = problem()
    few, deleted = InfluenceFisher(samples=5), rows((1, 2))
    assert torch.equal(few.forget(task, victim, deleted, 1).flat(), few.forget(task, victim, deleted, 1).flat())
    assert not torch.allclose(few.forget(task, victim, deleted, 1).flat(), few.forget(task, victim, deleted, 2).flat())
    one, two = (EVERY.forget(task, victim, deleted, seed).flat() for seed in (1, 2))
    assert (one - two).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["mlp", "batch_norm"])
def test_rows_are_independent_and_the_victim_is_left_as_it_is(name: str) -> None:
    """With nothing deleted the model is the victim, bit for bit."""
    task, victim = problem(name)
    deleted = rows((1, 2), (), (3,), (2, 4, 5))
    before = [value.clone() for value in (*victim.parameters.values(), *victim.buffers.values())]
    flags = [parameter.requires_grad for parameter in victim.module.parameters()]
    models = EVERY.forget(task, victim, deleted, 0)
    for row, model in zip(deleted, models.flat(), strict=True):
        alone = EVERY.forget(task, victim, row[None], 0).flat()[0]
        assert (alone - model).abs().max() < 1e-12 * (1 + model.abs().max())
    assert torch.equal(models[1].flat(), victim.flat())
    assert torch.equal(EVERY.forget(task, victim, deleted[1:2], 0)[0].flat(), victim.flat())
    after = (*victim.parameters.values(), *victim.buffers.values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(layer.training for layer in victim.module.modules())
    assert flags == [parameter.requires_grad for parameter in victim.module.parameters()]


def test_fractional_weights_are_refused() -> None:
    task, victim = problem()
    with pytest.raises(UserError, match="fractional"):
        EVERY.forget(task, victim, 0.5 * rows((1, 2)), 0)


@pytest.mark.parametrize("samples", [1, 500])
def test_a_sample_without_records_is_refused(samples: int) -> None:
    task, victim = problem()
    with pytest.raises(UserError, match=f"unlearning.samples={samples}"):
        forget(InfluenceFisher(samples=samples), task, victim, Request(tuple(range(N))), 0)


def test_gradients_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task, victim = problem()
    monkeypatch.setattr(unlearning.influence_fisher, "LARGEST", 5 * len(victim.flat()))
    InfluenceFisher(samples=5).forget(task, victim, rows((1,)), 0)
    with pytest.raises(UserError, match="at most 5 are held"):
        InfluenceFisher(samples=6).forget(task, victim, rows((1,)), 0)
