"""How a module behaves is found out by running it: it is trained in its own mode, from the seed, and stays as it is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from data.errors import UserError
from data.randomness import derive, generator, seeded
from models.behaviour import Behaviour, behaviour, pair
from models.small_cnn import SmallCNN
from models.training import Training, initialise, train
from tests.models.own import CLASSES, HIDDEN, SHAPE, Own, has, numpy_draw, records, seed_all, states

RECIPE = Training(epochs=2, batch_size=16, lr=0.1)
Build = Callable[[], nn.Module]


def average(net: Any, h: Tensor) -> Tensor:
    """A buffer that is put in the place of the old one, as `self.mean = ...` does."""
    if net.training:
        net.mean = 0.9 * net.mean + 0.1 * h.detach().mean(0)
    result: Tensor = h - net.mean
    return result


LIVELY: dict[str, tuple[Build, Behaviour]] = {
    "functional dropout": (
        partial(Own, lambda net, h: F.dropout(h, 0.5, net.training)), Behaviour(apart=True, draws=True)
    ),
    "dropout layer": (
        partial(Own, lambda net, h: net.d(h), has(d=lambda: nn.Dropout(0.5))), Behaviour(apart=True, draws=True)
    ),
    "numpy noise": (
        partial(Own, lambda net, h: h + numpy_draw() if net.training else h), Behaviour(apart=True, draws=True)
    ),
    "python's coin": (
        partial(Own, lambda net, h: -h if net.training and random.random() < 0.5 else h),
        Behaviour(apart=True, draws=True),
    ),
    "another function": (partial(Own, lambda net, h: h * (2 if net.training else 1)), Behaviour(apart=True)),
    "looks, and does the same": (partial(Own, lambda net, h: h * (net.training or 1)), Behaviour(apart=True)),
    "batch mean": (
        partial(Own, lambda net, h: h - h.mean(0) if net.training else h), Behaviour(apart=True, mixes=True)
    ),
    "instance-norm with statistics": (
        partial(Own, lambda net, h: net.n(h[:, None])[:, 0],
                has(n=lambda: nn.InstanceNorm1d(1, track_running_stats=True))),
        Behaviour(apart=True, mixes=True, keeps=("n.running_mean", "n.running_var")),
    ),
    "spectral norm": (
        partial(Own, lambda net, h: net.c(h), has(c=lambda: parametrizations.spectral_norm(nn.Linear(8, 8)))),
        Behaviour(apart=True, mixes=True,
                  keeps=("c.parametrizations.weight.0._u", "c.parametrizations.weight.0._v")),
    ),
    "a buffer assigned to": (
        partial(Own, average, lambda net: net.register_buffer("mean", torch.zeros(HIDDEN))),
        Behaviour(apart=True, mixes=True, keeps=("mean",)),
    ),
    "randomised ReLU": (
        partial(Own, lambda net, h: net.r(h), has(r=nn.RReLU)), Behaviour(apart=True, draws=True, fused=True)
    ),
}  # fmt: skip


def plain_loop(build: Build, seed: int, kept: Tensor) -> nn.Module:
    """What a researcher would write: `train()`, one step after another, the global generators seeded for each."""
    data = records(len(kept))
    with seeded(derive(seed, "initialisation")):
        model = build().train()
        optimizer = torch.optim.SGD(model.parameters(), RECIPE.lr, RECIPE.momentum, weight_decay=RECIPE.weight_decay)
        order, step, total = generator(seed, "batches"), 0, RECIPE.epochs * math.ceil(len(data) / RECIPE.batch_size)
        for _ in range(RECIPE.epochs):
            for part in torch.randperm(len(data), generator=order).split(RECIPE.batch_size):
                optimizer.param_groups[0]["lr"] = RECIPE.lr * 0.5 * (1 + math.cos(math.pi * step / total))
                drawn = derive(seed, "draws of the model", step)
                seed_all(drawn)
                optimizer.zero_grad()
                losses = F.cross_entropy(model(data.x[part]), data.y[part], reduction="none")
                (kept[part] * losses).mean().backward()
                optimizer.step()
                step += 1
    return model.eval()


@pytest.mark.parametrize("name", LIVELY)
def test_trained_in_its_own_mode_as_plain_torch_does(name: str) -> None:
    build, expected = LIVELY[name]
    data = records()
    module = initialise(build, 0, data.x)[0]
    assert behaviour(module, data.x) == expected
    assert not any(part.training for part in module.modules())
    learned = train(build, data, RECIPE, [3])[0]
    with seeded(1):  # where the caller's generators stand does not matter, and they stay there
        before = states()
        again = train(build, data, RECIPE, [3])[0]
        assert states() == before
    assert torch.equal(learned.flat(), again.flat())
    plain = plain_loop(build, 3, torch.ones(len(data)))
    assert torch.allclose(learned.flat(), torch.cat([v.detach().flatten() for v in plain.parameters()]), atol=1e-6)
    assert torch.allclose(learned.logits(data.x), plain(data.x), atol=1e-5)  # with what it keeps in buffers


@pytest.mark.parametrize("name", LIVELY)
def test_many_models_are_what_each_is_alone(name: str) -> None:
    build, data = LIVELY[name][0], records()
    weights = torch.zeros(3, len(data))
    weights[1, :9] = 1
    stacked = train(build, data, RECIPE, [3, 3, 4], weights)
    for row, seed in enumerate((3, 3, 4)):
        alone = train(build, data, RECIPE, [seed], weights[row : row + 1])[0]
        assert torch.equal(stacked[row].flat(), alone.flat())
        assert all(torch.equal(value, alone.buffers[key]) for key, value in stacked[row].buffers.items())


def test_what_is_deleted_draws_like_the_rest_where_examples_do_not_mix() -> None:
    """Common random numbers: the mask of an example does not hang on which others are deleted."""
    seen: list[Tensor] = []

    def between(net: Any, h: Tensor) -> Tensor:
        mask = F.dropout(torch.ones_like(h), 0.5, net.training)
        if net.training:
            seen.append(mask)
        return h * mask

    data, build = records(8), partial(Own, between)
    recipe, weights = Training(epochs=1, batch_size=8), torch.zeros(2, 8)
    weights[1, :3] = 1
    begun = len(seen)
    train(build, data, recipe, [0, 0], weights)
    assert torch.equal(*[mask for mask in seen[begun:] if len(mask) == 8][-2:])


def test_newton_needs_one_objective() -> None:
    for build, shape in ((LIVELY["functional dropout"][0], SHAPE), (partial(SmallCNN, shape=(1, 4, 4), classes=CLASSES,
                         widths=[2], norm="batch"), SHAPE)):  # fmt: skip
        assert records().x.shape[1:] == shape
        with pytest.raises(UserError, match="training mode"):
            train(build, records(), Training(optimizer="newton"), [0])


def test_construction_draws_from_the_seed_whatever_the_generator() -> None:
    def drawn(net: Any) -> None:
        net.c = nn.Parameter(torch.tensor([random.random(), numpy_draw(), float(torch.rand(()))]))

    build, x = partial(Own, lambda net, h: h * net.c.sum(), drawn), records().x
    one, same, other = (initialise(build, seed, x)[1]["c"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert bool((one != other).all())


def test_a_pair_is_two_inputs_whatever_there_is() -> None:
    """Different ones if there are; batch-norm cannot be tried on one."""
    assert pair(torch.ones(1, 3)).shape == pair(torch.ones(5, 3)).shape == (2, 3)
    x = torch.tensor([[1.0], [1.0], [2.0]])
    assert pair(x).flatten().tolist() == [1.0, 2.0]
