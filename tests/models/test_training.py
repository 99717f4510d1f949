"""Training: many models at once give what each gives alone, which is what a plain loop gives."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, generator
from models.batches import lr_factor
from models.logistic import Logistic
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.training import Training, initialise, train
from models.victim import ModelStack, stack

Build = Callable[[], nn.Module]
N, SHAPE = 50, (6,)
MLP_: Build = partial(MLP, shape=SHAPE, classes=3, widths=[5, 4])
DROPOUT: Build = partial(MLP, shape=SHAPE, classes=3, widths=[5, 4], dropout=0.4)
CNN: Build = partial(SmallCNN, shape=(1, 4, 4), classes=3, widths=[4, 3], norm="group")
BATCH_NORM: Build = partial(SmallCNN, shape=(1, 4, 4), classes=3, widths=[4, 3], norm="batch")
SGD = Training(epochs=3, batch_size=16, lr=0.1, schedule="triangular")
ADAM = Training(optimizer="adam", epochs=3, batch_size=16, lr=0.01)
# float64 rounding (1e-16 an operation) through 12 steps of well-conditioned training stays far below
CLOSE = 1e-9


def records(n: int = N, shape: tuple[int, ...] = SHAPE) -> Examples:
    rng = generator(0, "records")
    return Examples(torch.randn(n, *shape, generator=rng, dtype=torch.float64), torch.randint(3, (n,), generator=rng))


def deletions(m: int, n: int = N) -> Tensor:
    """Row 0 deletes nothing; the others a quarter of the examples, and some by half."""
    weights = (torch.rand(m, n, generator=generator(1, "w"), dtype=torch.float64) * 4).floor() / 4
    weights = torch.where(weights == 0.75, 1.0, torch.where(weights == 0.25, 0.5, 0.0))
    weights[0] = 0
    return weights


def plain_loop(build: Build, data: Examples, training: Training, seed: int, deleted: Tensor) -> Tensor:
    """What a researcher would write for one model, example weights included; flat parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "initialisation"))
        model = build().double().eval()
    optimizer: torch.optim.Optimizer
    if training.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), training.lr, training.momentum, weight_decay=training.weight_decay, foreach=False
        )
    else:
        optimizer = torch.optim.Adam(model.parameters(), training.lr, weight_decay=training.weight_decay, foreach=False)
    order, step, per_epoch = generator(seed, "batches"), 0, math.ceil(len(data) / training.batch_size)
    for _ in range(training.epochs):
        for part in torch.randperm(len(data), generator=order).split(training.batch_size):
            optimizer.param_groups[0]["lr"] = training.lr * lr_factor(
                training.schedule, step, training.epochs * per_epoch
            )
            optimizer.zero_grad()
            losses = F.cross_entropy(model(data.x[part]), data.y[part], reduction="none")
            ((1 - deleted[part]) * losses).mean().backward()
            optimizer.step()
            step += 1
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def assert_close(left: Tensor, right: Tensor) -> None:
    assert left.dtype == right.dtype == torch.float64
    assert (left - right).abs().max() < CLOSE


@pytest.mark.parametrize("training", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize(("build", "shape"), [(MLP_, SHAPE), (CNN, (1, 4, 4))], ids=["mlp", "cnn"])
def test_equals_a_plain_loop(build: Build, shape: tuple[int, ...], training: Training) -> None:
    data, weights = records(shape=shape), deletions(3)
    together = train(build, data, training, [5, 5, 5], weights).flat()
    for j in range(3):
        expected = plain_loop(build, data, training, 5, weights[j])
        assert_close(together[j], expected)
        assert_close(train(build, data, training, [5], weights[j : j + 1]).flat()[0], expected)
    assert (together[0] - together[1]).abs().max() > 1e-3
    assert_close(train(build, data, training, [5]).flat()[0], together[0])


@pytest.mark.parametrize("training", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("build", [MLP_, DROPOUT], ids=["plain", "dropout"])
@pytest.mark.parametrize("seeds", [[7, 7, 7, 7], [7, 8, 7, 9]], ids=["same", "different"])
def test_together_equals_each_alone(build: Build, training: Training, seeds: list[int]) -> None:
    data, weights = records(), deletions(4)
    alone = torch.cat([train(build, data, training, [s], w[None]).flat() for s, w in zip(seeds, weights, strict=True)])
    for together in (2, 3, 96):
        recipe = Training(**{**vars_of(training), "together": together})
        assert_close(train(build, data, recipe, seeds, weights).flat(), alone)


def vars_of(training: Training) -> dict[str, Any]:
    return {name: getattr(training, name) for name in Training.__dataclass_fields__}


@pytest.mark.parametrize("build", [MLP_, DROPOUT], ids=["plain", "dropout"])
def test_repeats_bit_by_bit_and_leaves_the_global_generator(build: Build) -> None:
    data, weights = records(), deletions(3)
    before = torch.get_rng_state()
    first, again = (train(build, data, SGD, [1, 1, 2], weights).flat() for _ in range(2))
    one, same = (train(build, data, SGD, [1]).flat() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert torch.equal(one, same)
    assert (train(build, data, SGD, [2]).flat() - one).abs().max() > 1e-2


def test_dropout_is_used_and_leaves_no_mask_behind() -> None:
    data = records()
    for seeds in ([3], [3, 4]):
        trained = train(DROPOUT, data, SGD, seeds)
        assert all(
            torch.equal(mask, torch.ones(len(seeds), 1, dtype=torch.float64)) for mask in trained.buffers.values()
        )
    without = train(MLP_, data, SGD, [3]).parameters
    assert (torch.cat([value.flatten() for value in without.values()]) - trained[0].flat()).abs().max() > 1e-2


@pytest.mark.parametrize("build", [MLP_, DROPOUT, CNN, BATCH_NORM], ids=["mlp", "dropout", "cnn", "batch_norm"])
def test_deleted_inputs_do_not_matter(build: Build) -> None:
    """Bit by bit: what a fully deleted example looks like, and its label, leaves no trace."""
    shape = (1, 4, 4) if build in (CNN, BATCH_NORM) else SHAPE
    data, weights = records(shape=shape), (deletions(2) == 1).double()
    gone = weights[1] == 1
    changed = Examples(
        torch.where(gone.view(-1, *[1] * len(shape)), data.x * 3 + 1, data.x), torch.where(gone, 0, data.y)
    )
    for row in (weights[1:], weights[[1, 1]]):
        before = train(build, data, SGD, [5] * len(row), row)
        after = train(build, changed, SGD, [5] * len(row), row)
        assert torch.equal(before.flat(), after.flat())
        assert all(torch.equal(value, after.buffers[name]) for name, value in before.buffers.items())
    assert (train(build, data, SGD, [5]).flat() - train(build, changed, SGD, [5]).flat()).abs().max() > 1e-3


def test_batch_norm_learns_its_statistics_and_is_handed_back_in_eval_mode() -> None:
    data = records(shape=(1, 4, 4))
    trained = train(BATCH_NORM, data, SGD, [5, 6])
    alone = train(BATCH_NORM, data, SGD, [6])
    assert torch.equal(trained.flat()[1], alone.flat()[0])
    steps = SGD.epochs * math.ceil(N / SGD.batch_size)
    for name, value in trained.buffers.items():
        assert torch.equal(value[1], alone.buffers[name][0])
        if name.endswith("num_batches_tracked"):
            assert value.tolist() == [steps, steps]
        if name.endswith("running_mean"):
            assert value.abs().max() > 1e-2
    assert not any(layer.training for layer in trained.module.modules())


@pytest.mark.parametrize("left", [0, 1])
def test_batch_norm_survives_batches_with_nothing_left(left: int) -> None:
    """17 examples in batches of 16: the last batch holds one example, and most examples are deleted."""
    weights = torch.ones(1, 17, dtype=torch.float64)
    weights[0, :left] = 0
    trained = train(BATCH_NORM, records(17, (1, 4, 4)), SGD, [5], weights)
    assert all(value.isfinite().all() for value in (*trained.parameters.values(), *trained.buffers.values()))


def test_start_continues() -> None:
    """The given models are the starting points, together or alone, and stay as they are."""
    recipe = Training(epochs=2, batch_size=16, lr=0.1, momentum=0, schedule="constant")
    data = records()
    half = train(MLP_, data, recipe, [1, 2])
    given = half.flat().clone()
    more = train(MLP_, data, recipe, [3, 3], deletions(2), start=half)
    assert torch.equal(half.flat(), given)
    for j in range(2):
        alone = train(MLP_, data, recipe, [3], deletions(2)[j : j + 1], start=stack([half[j]]))
        assert_close(more.flat()[j], alone.flat()[0])
    tiny = Training(epochs=1, batch_size=N, lr=1e-12, momentum=0, schedule="constant")
    for seeds in ([3], [3, 3]):
        start = stack([half[0]] * len(seeds))
        assert_close(train(MLP_, data, tiny, seeds, start=start).flat(), start.flat())


def test_weight_decay_alone_shrinks_as_the_objective_says() -> None:
    """With everything deleted, a step is theta <- (1 - lr lambda) theta."""
    recipe = Training(epochs=1, batch_size=10, lr=0.1, momentum=0, weight_decay=0.2, schedule="constant")
    begin: ModelStack = stack([train(MLP_, records(), SGD, [1])[0]] * 2)
    after = train(MLP_, records(), recipe, [1, 1], torch.ones(2, N, dtype=torch.float64), start=begin)
    assert_close(after.flat(), begin.flat() * (1 - 0.1 * 0.2) ** 5)


@pytest.mark.parametrize("seeds", [[0], [0, 0]])
def test_divergence_names_the_setting(seeds: list[int]) -> None:
    data = records()
    wild = Training(epochs=3, batch_size=16, lr=1e300, schedule="constant")
    with pytest.raises(UserError, match=r"loss is not finite after epoch 1; lower training\.lr \(now 1e\+300\)"):
        train(MLP_, data, wild, seeds)
    poisoned = Examples(torch.where(torch.arange(N)[:, None] == 3, float("nan"), data.x), data.y)
    with pytest.raises(UserError, match=r"training\.lr"):
        train(MLP_, poisoned, SGD, seeds)


def test_initialisation_is_that_of_the_module() -> None:
    before = torch.get_rng_state()
    module, parameters, buffers = initialise(DROPOUT, 4, torch.zeros(1, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(parameters) == [name for name, _ in module.named_parameters()]
    for name, value in module.named_parameters():
        assert torch.equal(parameters[name], value.detach().double())
        assert parameters[name].data_ptr() != value.data_ptr()
    assert {value.dtype for value in (*parameters.values(), *buffers.values())} == {torch.float64}
    assert not module.training


def test_schedules() -> None:
    total = 50
    steps = range(total)
    assert {lr_factor("constant", step, total) for step in steps} == {1.0}
    cosine = [lr_factor("cosine", step, total) for step in steps]
    assert cosine[0] == 1
    assert cosine[25] == pytest.approx(0.5)
    assert cosine[-1] == pytest.approx((1 + math.cos(0.98 * math.pi)) / 2)
    assert cosine == sorted(cosine, reverse=True)
    triangular = [lr_factor("triangular", step, total) for step in steps]
    peak = triangular.index(max(triangular))
    assert (triangular[0], max(triangular), peak) == (pytest.approx(0.1), 1.0, 9)
    assert triangular[: peak + 1] == sorted(triangular[: peak + 1])
    assert triangular[peak:] == sorted(triangular[peak:], reverse=True)
    assert 0 < triangular[-1] == pytest.approx(0.02 / 0.8)


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"epochs": 0}, {"momentum": 1}, {"optimizer": "lbfgs"}, {"rate": 1}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Training(**wrong)


def test_newton_is_the_limit_of_gradient_descent() -> None:
    """Descent with steps of 0.5 on a 0.1-strongly convex objective (curvature below 4): 0.95^600 < 1e-13."""
    build: Build = partial(Logistic, shape=SHAPE, classes=3)
    data, weights = records(), deletions(2)
    exact = train(build, data, Training(optimizer="newton", weight_decay=0.1), [0, 0], weights)
    slow = Training(epochs=600, batch_size=N, lr=0.5, momentum=0, weight_decay=0.1, schedule="constant")
    assert_close(train(build, data, slow, [3, 3], weights).flat(), exact.flat())
