from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.provider import candidates
from attacks.provider.candidates import Norm, OneByOne, SideBySide, comparing, distinct
from data.examples import Examples
from data.randomness import generator
from models.logistic import Logistic
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.stepwise import Stepwise
from models.training import Training
from models.victim import Victim, flatten
from unlearning.provable import drawn
from unlearning.task import Task

RECIPE = Training(epochs=2, batch_size=8, lr=0.1, schedule="constant")
NORMS: tuple[Norm, ...] = ("sum_tensor", "global")


def task_of(build, dtype: torch.dtype = torch.float64) -> Task:  # type: ignore[no-untyped-def]
    rng = generator(0, "data")
    x = torch.randn(60, 1, 8, 8, generator=rng, dtype=dtype)
    return Task(Examples(x, torch.randint(4, (60,), generator=rng)), build, RECIPE)


def learning(task: Task, steps: int = 3) -> tuple[Stepwise, Victim]:
    """A model that has made some steps, and how it began."""
    start = drawn(task, 0)
    learner = Stepwise(start, task.training, task.records.x, 0)
    for step in range(steps):
        some = task.records[torch.arange(8) + step]
        learner.step(some.x, some.y, 0.1, step)
    return learner, start


def by_hand(learner: Stepwise, task: Task, rows: Tensor, train: bool) -> list[Tensor]:
    """The gradients of the mean loss by autograd, of every parameter."""
    module, now = task.build().to(task.records.x.dtype), learner.victim()
    module.load_state_dict({**now.moving, **now.buffers})
    module.train(train)
    loss = F.cross_entropy(module(task.records.x[rows]), task.records.y[rows])
    return list(torch.autograd.grad(loss, list(module.parameters())))


def expected(learner: Stepwise, task: Task, wanted: Tensor, drawn: Tensor, norm: Norm, train: bool) -> list[float]:
    goal = by_hand(learner, task, wanted, train)
    found = []
    for rows in drawn:
        gaps = [float((a - b).norm()) for a, b in zip(by_hand(learner, task, rows, train), goal, strict=True)]
        found.append(sum(gaps) if norm == "sum_tensor" else sum(gap**2 for gap in gaps) ** 0.5)
    return found


LINEAR = {
    "mlp": partial(MLP, shape=(1, 8, 8), classes=4, widths=(7, 5)),
    "logistic": partial(Logistic, shape=(1, 8, 8), classes=4),
}
OTHERS = {
    "convolutions": partial(SmallCNN, shape=(1, 8, 8), classes=4, widths=(4,)),
    "batch-norm": partial(SmallCNN, shape=(1, 8, 8), classes=4, widths=(4,), norm="batch"),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("numbers", [candidates.NUMBERS, 1])  # the latter: candidate by candidate
@pytest.mark.parametrize("build", LINEAR.values(), ids=LINEAR)
def test_all_candidates_in_one_pass_are_as_far_as_by_hand(
    build, numbers: int, norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(candidates, "NUMBERS", numbers)
    task = task_of(build)
    learner, start = learning(task)
    found = comparing(learner, start, task.records, norm)
    assert isinstance(found, SideBySide)
    for step, size in enumerate((5, 1, 9)):  # memory is used again, larger and smaller
        drawn, before = distinct(60, size, 6, generator(step, "rows")), learner.gradients.count
        apart, goal = found.distances(torch.arange(size), drawn, 3 + step)
        assert learner.gradients.count - before == 7 * size
        by_norm = expected(learner, task, torch.arange(size), drawn, norm, train=False)
        torch.testing.assert_close(apart, torch.tensor(by_norm, dtype=apart.dtype), rtol=1e-10, atol=1e-12)
        nothing = by_hand(learner, task, torch.arange(size), False)
        length = sum(float(each.norm()) for each in nothing) if norm == "sum_tensor" else float(flatten_all(nothing))
        assert float(goal) == pytest.approx(length, rel=1e-10)
        learner.step(task.records.x[:8], task.records.y[:8], 0.1, 3 + step)  # it follows the weights


def flatten_all(parts: list[Tensor]) -> Tensor:
    return flatten({str(k): part for k, part in enumerate(parts)}).norm()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_are_compared_in_the_mode_of_the_update_and_left_as_they_were(kind: str, norm: Norm) -> None:
    task = task_of(OTHERS[kind])
    learner, start = learning(task)
    found = comparing(learner, start, task.records, norm)
    assert isinstance(found, OneByOne)
    before, count = learner.state.clone(), learner.gradients.count
    drawn = distinct(60, 6, 4, generator(0, "rows"))
    apart, _ = found.distances(torch.arange(6), drawn, 3)
    assert learner.gradients.count - count == 5 * 6
    after = learner.state
    assert torch.equal(before.weights, after.weights)
    assert all(torch.equal(value, after.buffers[name]) for name, value in before.buffers.items())
    assert all(torch.equal(value, after.moments[name]) for name, value in before.moments.items())
    assert bool(before.buffers) == (kind == "batch-norm")
    by_norm = expected(learner, task, torch.arange(6), drawn, norm, train=True)
    torch.testing.assert_close(apart, torch.tensor(by_norm, dtype=apart.dtype), rtol=1e-9, atol=1e-12)
    if kind == "batch-norm":  # in eval mode they are others
        other = expected(learner, task, torch.arange(6), drawn, norm, train=False)
        assert max(abs(a - b) for a, b in zip(by_norm, other, strict=True)) > 1e-2


class Twice(nn.Module):
    """A linear layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.inner(x.flatten(1)).tanh()))


class Mixing(nn.Module):
    """What it says of an example depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(x.flatten(1))
        return logits * (1 + logits.mean())


class Backwards(nn.Module):
    """Its layers run in another order than they are defined in, which only costs time."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.inner = nn.Linear(5, 4), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x.flatten(1)))


@pytest.mark.parametrize("build", [Twice, Mixing, Backwards, partial(LINEAR["mlp"], dropout=0.2)])
def test_models_that_are_no_chain_of_linear_layers_are_found_out(build) -> None:  # type: ignore[no-untyped-def]
    task = task_of(build)
    learner, start = learning(task, 0)
    count = learner.gradients.count
    found = comparing(learner, start, task.records, "global")
    assert isinstance(found, OneByOne)
    assert learner.gradients.count == count
    apart, _ = found.distances(torch.arange(6), torch.arange(6)[None], 0)
    assert float(apart) == 0  # the same rows, with the same masks


@pytest.mark.parametrize(("count", "size"), [(7, 5), (12, 5), (40, 5), (5, 5), (1, 1)])
def test_draws_are_distinct_and_every_set_is_as_likely(count: int, size: int) -> None:
    rows = 30_000
    found = distinct(count, size, rows, generator(0, "draws"))
    assert found.shape == (rows, size)
    assert 0 <= int(found.min()) <= int(found.max()) < count
    ordered = found.sort(dim=1).values
    assert bool((ordered[:, 1:] > ordered[:, :-1]).all())
    for place in range(size):  # each place is uniform; five standard deviations of a count
        share = torch.bincount(found[:, place], minlength=count).double() / rows
        assert float((share - 1 / count).abs().max()) <= 5 * (1 / count / rows) ** 0.5
    if size > 1:  # and so are pairs of places, over what is distinct
        pair = found[:, 0] * count + found[:, -1]
        share = torch.bincount(pair, minlength=count**2).double().view(count, count) / rows
        even = 1 / (count * (count - 1))
        gap = (share - even).masked_fill(torch.eye(count, dtype=torch.bool), 0)
        assert float(gap.abs().max()) <= 5 * (even / rows) ** 0.5
