"""An own model is tried before it is trained: each kind of fault is one sentence with the way out."""

from __future__ import annotations

import random
import threading
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from data.errors import UserError
from data.randomness import seeded
from models.mlp import MLP
from models.trial import try_out
from tests.models.own import CLASSES, HIDDEN, SHAPE, Own, has, numpy_draw, records, states


def whole(forward: Any, prepare: Any = None) -> partial[Own]:
    return partial(Own, forward, prepare, whole=True)


def between(forward: Any, prepare: Any = None) -> partial[Own]:
    return partial(Own, forward, prepare)


def logits(net: Any, x: Tensor) -> Tensor:
    result: Tensor = net.b(net.hidden(x))
    return result


def remembers(net: Any, h: Tensor) -> Tensor:
    if net.seen is None:
        net.seen = h.detach().mean(0)
    result: Tensor = h - net.seen
    return result


def keeps_aside(net: Any, h: Tensor) -> Tensor:
    if net.training:
        net.__dict__["mean"] = h.detach().mean(0)
    result: Tensor = h - net.__dict__["mean"]
    return result


def counts(net: Any, h: Tensor) -> Tensor:
    net.count.add_(1)
    return h


def clamps(net: Any, h: Tensor) -> Tensor:
    net.b.weight.data.clamp_(-0.01, 0.01)
    return h


def scripted() -> nn.Module:
    with pytest.warns(DeprecationWarning, match="script"):
        module: nn.Module = torch.jit.script(nn.Linear(HIDDEN, HIDDEN))
    return module


def shares_memory(net: Any) -> None:
    net.c = nn.Linear(net.b.in_features, net.b.out_features)
    net.c.weight.data = net.b.weight.data


REFUSED = {
    "double": (between(lambda net, h: h.double().float(), lambda net: net.b.double()), "is torch.float64, and models"),
    "a hook": (between(lambda net, h: h, lambda net: net.b.weight.register_hook(lambda g: 0 * g)), "has a hook"),
    "shared memory": (between(lambda net, h: h, shares_memory), "b.weight and c.weight share memory"),
    "a tuple": (whole(lambda net, x: (logits(net, x), x)), r"one tensor of logits \(2, 3\).*returns a tuple"),
    "a dictionary": (whole(lambda net, x: {"logits": logits(net, x)}), "returns a dict"),
    "squeezed": (whole(lambda net, x: logits(net, x)[:, :, None].squeeze()), r"logits \(1, 3\) for 1 example.*\(3,\)"),
    "too few classes": (whole(lambda net, x: logits(net, x)[:, :2]), r"returns \(2, 2\); its last layer"),
    "a tuple in training": (
        whole(lambda net, x: (logits(net, x), x) if net.training else logits(net, x)), "a tuple in training mode"
    ),
    "another type": (whole(lambda net, x: logits(net, x).double()), "float32, and returns torch.float64"),
    "wrong shape": (whole(lambda net, x: net.b(x)), r"fails on two examples of shape \(1, 4, 4\), in its layer 'b'"),
    "not finite": (whole(lambda net, x: logits(net, x) / 0), "not finite before any training"),
    "no parameter used": (whole(lambda net, x: logits(net, x).detach()), "depend on none of its parameters"),
    "all frozen": (between(lambda net, h: h, lambda net: net.requires_grad_(False)), "nothing to train"),
    "dropout always": (between(lambda net, h: F.dropout(h, 0.5)), "draws at random in evaluation mode, in the forward"),
    "dropout layer always": (
        between(lambda net, h: net.drop(h), has(drop=lambda: Own(lambda own, x: F.dropout(x), whole=True))),
        r"in evaluation mode, in its layer 'drop' \(Own\)",
    ),
    "numpy in evaluation": (between(lambda net, h: h * numpy_draw()), "draws at random in evaluation"),
    "python in evaluation": (between(lambda net, h: h * random.random()), "draws at random in evaluation"),
    "own generator, evaluation": (
        between(lambda net, h: h * float(net.rng.random()), has(rng=lambda: np.random.default_rng(0))), "asked twice"
    ),
    "own generator, training": (
        between(lambda net, h: h * float(net.rng.random()) if net.training else h,
                has(rng=lambda: np.random.default_rng(0))), "a generator of its own, 'rng'"
    ),
    "entropy in training": (
        between(lambda net, h: h * float(np.random.default_rng().random()) if net.training else h), "no seed reaches"
    ),
    "entropy in construction": (
        between(lambda net, h: h * net.c, lambda net: setattr(
            net, "c", nn.Parameter(torch.tensor(np.random.default_rng().random(HIDDEN), dtype=torch.float32)))),
        "building it twice with one seed gives two values of c",
    ),
    "remembers its first batch": (between(remembers, has(seen=lambda: None)), "remember what it was asked"),
    "keeps aside what it learns": (
        between(keeps_aside, lambda net: net.__dict__.update(mean=torch.zeros(HIDDEN))), "register_buffer"
    ),
    "counts in evaluation": (
        between(counts, lambda net: net.register_buffer("count", torch.zeros(()))), "changes count in evaluation mode"
    ),
    "clamps its weights": (between(clamps), "changes b.weight in evaluation mode"),
    "batch statistics": (
        between(lambda net, h: net.n(h), has(n=lambda: nn.BatchNorm1d(HIDDEN, track_running_stats=False))),
        r"depends on the others in its batch.*in its layer 'n' \(BatchNorm1d\)",
    ),
    "batch mean": (between(lambda net, h: h - h.mean(0)), "depends on the others in its batch"),
    "weights from elsewhere": (
        whole(lambda net, x: net.hidden(x) @ net.__dict__["w"][0].T, lambda net: net.__dict__.update(w=[net.b.weight])),
        "cannot put other tensors in the place of b.weight",
    ),
    "compiled": (between(lambda net, h: net.c(h), has(c=scripted)), "torch.jit"),
    "a lock": (between(lambda net, h: h, has(lock=threading.Lock)), "cannot be copied"),
    "recurrent": (
        between(lambda net, h: net.r(h[:, None])[0][:, 0], has(r=lambda: nn.GRU(HIDDEN, HIDDEN, batch_first=True))),
        r"in its layer 'r' \(GRU\).*nn.GRUCell",
    ),
    "item": (between(lambda net, h: h / (1 + net.b.weight.std().item())), "no .item()"),
    "branch": (between(lambda net, h: h if net.b.weight.sum() > -99 else -h), "torch.where chooses"),
    "numpy": (between(lambda net, h: h + torch.from_numpy(net.b.bias.detach().numpy()).sum()), r"\.numpy\(\) of one"),
    "input scaled in place by a weight": (
        whole(lambda net, x: logits(net, x.mul_(net.k)), lambda net: setattr(net, "k", nn.Parameter(torch.ones(())))),
        r"write x = x \+ y",
    ),
    "no forward derivative": (between(lambda net, h: torch.cdist(h, net.a.weight.T[:3].tanh())[:, :1] * h), "jvp"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_fault_is_one_sentence(name: str) -> None:
    build, words = REFUSED[name]
    with seeded(1):
        before = states()
        with pytest.raises(UserError, match=words) as raised:
            try_out(build, records(), CLASSES)
        assert states() == before
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("model: ")


def attention(net: Any, x: Tensor) -> Tensor:
    result: Tensor = net.b(net.l(net.e(x.flatten(1, 2))).mean(1))
    return result


def cells(net: Any, x: Tensor) -> Tensor:
    inputs = net.e(x.flatten(1, 2))
    state = torch.zeros_like(inputs[:, 0])
    for step in range(inputs.shape[1]):
        state = net.l(inputs[:, step], state)
    result: Tensor = net.b(state)
    return result


SERVED = {
    "ours": partial(MLP, shape=SHAPE, classes=CLASSES),
    "attention": whole(attention, has(
        e=lambda: nn.Linear(4, HIDDEN),
        l=lambda: nn.TransformerEncoderLayer(HIDDEN, 2, 8, dropout=0.1, batch_first=True))),
    "recurrent cells": whole(cells, has(e=lambda: nn.Linear(4, HIDDEN), l=lambda: nn.GRUCell(HIDDEN, HIDDEN))),
    "lazy": between(lambda net, h: net.c(h), has(c=lambda: nn.LazyLinear(HIDDEN))),
    "lazy batch-norm": between(lambda net, h: net.c(h), has(c=lambda: nn.LazyBatchNorm1d())),
    "spectral norm": between(
        lambda net, h: net.c(h), has(c=lambda: parametrizations.spectral_norm(nn.Linear(HIDDEN, HIDDEN)))
    ),
    "weight norm": between(
        lambda net, h: net.c(h), has(c=lambda: parametrizations.weight_norm(nn.Linear(HIDDEN, HIDDEN)))
    ),
    "randomised ReLU": between(lambda net, h: net.c(h), has(c=nn.RReLU)),
    "keeps what it computed": whole(lambda net, x: setattr(net, "seen", net.hidden(x)) or net.b(net.seen)),
    "an infinite mask": between(
        lambda net, h: h.masked_fill(net.mask < 0, 0), lambda net: net.register_buffer("mask", torch.tensor([
            -torch.inf, *[0.0] * (HIDDEN - 1)]))),
    "not differentiable twice, where nobody asks": None,
}  # fmt: skip


@pytest.mark.parametrize("name", SERVED)
def test_what_can_be_served_is(name: str) -> None:
    build = SERVED[name]
    if build is None:
        try_out(REFUSED["no forward derivative"][0], records(), CLASSES, derivatives=False)
    else:
        try_out(build, records(), CLASSES)
        try_out(build, records(dtype=torch.float64), CLASSES)
