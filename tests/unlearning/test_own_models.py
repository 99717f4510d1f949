"""Every procedure with models that a user brings: frozen and unused parameters, inputs written into, attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import UserError
from data.examples import Examples
from models.last_layer import only_last_layer
from models.training import Training, initialise, train
from models.victim import ModelStack, Victim
from tests.models.own import HIDDEN, Own, has, records
from tests.unlearning.test_every_procedure import NAMES, procedure
from unlearning.procedure import Differentiable, Procedure, Task, unlearned

PROCEDURES = sorted(set(NAMES) - {"certified_removal"})  # which is for model=logistic
RECIPE = Training(epochs=2, batch_size=16)
Build = Callable[[], nn.Module]


@cache
def seeded_procedure(name: str) -> Procedure:
    """With noise from the seed, so that two runs can be compared, and pieces that 40 records can be cut into."""
    changes: dict[str, dict[str, Any]] = {"certified": {"noise": "derived"}, "sisa": {"shards": 2, "slices": 2}}
    found: Any = procedure(name)
    return replace(found, **changes.get(name, {}))  # type: ignore[no-any-return]


def outcome(name: str, build: Build, data: Examples) -> tuple[Victim, ModelStack, Tensor | None]:
    """The victim, the models after two requests, and dL/dw where the procedure has it."""
    of, task = seeded_procedure(name), Task(data, build, RECIPE)
    victim, deleted = of.learn(task, 0), torch.zeros(2, len(data))
    deleted[0, 3] = deleted[1, 5:9] = 1
    models = unlearned(of, task, victim, deleted, 0)
    if not of.differentiable:
        return victim, models, None
    able: Differentiable = of  # type: ignore[assignment]
    return victim, models, able.request_vjp(task, victim, models, deleted, torch.ones_like(models.flat()))


def plain(net: Any, h: Tensor) -> Tensor:
    return h


class Head(nn.Module):
    """Only the last layer of a model, drawn as it is there."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self.b = build().b

    def forward(self, x: Tensor) -> Any:
        """Logits of features."""
        return self.b(x)


@pytest.mark.parametrize("name", PROCEDURES)
def test_a_frozen_body_is_as_good_as_features(name: str) -> None:
    """Training and forgetting only the head is training and forgetting a linear model of what the body gives."""
    build, data = partial(Own, plain, lambda net: net.a.requires_grad_(False)), records()
    first = initialise(build, 0, data.x)[1]
    whole = outcome(name, build, data)
    for models in whole[:2]:
        body = [value for key, value in models.parameters.items() if ".a." in f".{key}"]
        assert body
        assert models.flat().shape[-1] == sum(value.numel() for key, value in first.items() if key[0] == "b") * (
            2 if name == "sisa" else 1
        )
    if name == "sisa":  # whose shards have seeds of their own, and so bodies of their own
        return
    features = torch.tanh(F.linear(data.x.flatten(1), first["a.weight"], first["a.bias"]))
    head = outcome(name, partial(Head, build), Examples(features, data.y))
    for models in whole[:2]:
        assert all(bool((models.parameters[key] == first[key]).all()) for key in ("a.weight", "a.bias"))
    for one, other in zip(whole[:2], head[:2], strict=True):
        torch.testing.assert_close(one.flat(), other.flat(), rtol=1e-3, atol=1e-4)
    if whole[2] is not None and head[2] is not None:
        torch.testing.assert_close(whole[2], head[2], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("name", PROCEDURES)
def test_an_input_that_is_written_into_changes_nothing(name: str) -> None:
    data = records()
    aside = outcome(name, partial(Own, lambda net, x: net.b(net.hidden((x - 0.5) / 2)), whole=True), data)
    before = data.x.clone()
    in_place = outcome(name, partial(Own, lambda net, x: net.b(net.hidden(x.sub_(0.5).div_(2))), whole=True), data)
    assert torch.equal(data.x, before)
    assert torch.equal(aside[0].flat(), in_place[0].flat())
    assert torch.equal(aside[1].flat(), in_place[1].flat())
    assert torch.equal(aside[1].logits(data.x), in_place[1].logits(data.x))
    if aside[2] is not None and in_place[2] is not None:
        assert torch.equal(aside[2], in_place[2])


@pytest.mark.parametrize("name", PROCEDURES)
def test_an_unused_parameter_has_gradient_zero(name: str) -> None:
    data = records()
    spare = partial(Own, plain, has(spare=lambda: nn.Linear(3, 2)))
    with_spare, without = outcome(name, spare, data), outcome(name, partial(Own, plain), data)
    assert bool(with_spare[1].flat().isfinite().all())
    if name in ("certified", "fisher_forgetting"):  # their noise is drawn for all parameters at once
        return
    for one, other in zip(with_spare[:2], without[:2], strict=True):
        torch.testing.assert_close(
            {k: one.parameters[k] for k in other.parameters}, dict(other.parameters), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "newton"])
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_training_leaves_frozen_parameters_and_only_decays_unused_ones(optimizer: Any, seeds: list[int]) -> None:
    build = partial(Own, plain, lambda net: (net.a.requires_grad_(False), setattr(net, "spare", nn.Linear(2, 1))))
    data, recipe = records(), Training(optimizer=optimizer, epochs=3, lr=0.01, weight_decay=0.1)
    models = train(build, data, recipe, seeds)
    for row, seed in enumerate(seeds):
        first, after = initialise(build, seed, data.x)[1], models[row].parameters
        assert list(first) == list(after)
        assert torch.equal(first["a.weight"], after["a.weight"])
        assert torch.equal(first["a.bias"], after["a.bias"])
        assert "a.weight" not in models.moving
        assert float(after["spare.weight"].norm()) < float(first["spare.weight"].norm())
        assert not torch.equal(first["b.weight"], after["b.weight"])


def test_the_last_layer_may_be_frozen() -> None:
    data = records()
    models = train(partial(Own, plain, lambda net: net.b.requires_grad_(False)), data, RECIPE, [0, 1])
    assert list(models.moving) == ["a.weight", "a.bias"]
    assert list(only_last_layer(models).moving) == ["a.weight", "a.bias"]
    assert list(models.select(slice(1)).parameters) == ["a.weight", "a.bias", "b.weight", "b.bias"]


ATTENTION = partial(
    Own, lambda net, x: net.b(net.l(net.e(x.flatten(1, 2))).mean(1)),
    has(e=lambda: nn.Linear(4, HIDDEN), l=lambda: nn.TransformerEncoderLayer(HIDDEN, 2, 4, batch_first=True)),
    whole=True,
)  # fmt: skip


@pytest.mark.parametrize("name", PROCEDURES)
def test_attention_with_dropout_plays(name: str) -> None:
    victim, models, slopes = outcome(name, ATTENTION, records(20))
    assert bool(models.flat().isfinite().all())
    assert models.flat().shape == (2, len(victim.flat()))
    assert slopes is None or bool(slopes.isfinite().all())


class Wild(Own):
    """Overflows as soon as its parameters are large."""

    def __init__(self) -> None:
        super().__init__(lambda net, h: h.clamp_min(0) ** 3)

    def hidden(self, x: Tensor) -> Tensor:
        """Without a bound."""
        return self.a(x.flatten(1))  # type: ignore[no-any-return]


WILD: dict[str, tuple[dict[str, Any], str]] = {
    "first_order": ({"rate": 1e13}, r"unlearning=first_order .* lower unlearning.rate \(now 1e\+13\)"),
    "gradient_ascent": ({"lr": 1e6, "loss_cap": 1e30}, r"lower unlearning.lr \(now 1e\+06\), unlearning.steps"),
    "fine_tune": ({"lr": 1e6}, r"lower unlearning.lr \(now 1e\+06\) or unlearning.epochs"),
    "unrolling_sgd": ({"rate": 1e20}, "unlearning.rate a lower number"),
    "influence_replacement": ({"order": "first", "rate": 1e13}, "lower unlearning.rate"),
    "influence_fisher": ({"alpha": 1e20}, "lower unlearning.alpha"),
    "fisher_forgetting": ({"alpha": 1e30}, "lower unlearning.alpha"),
}


@pytest.mark.parametrize("name", WILD)
def test_a_model_that_is_not_finite_is_said_so_with_the_setting(name: str) -> None:
    changes, words = WILD[name]
    of: Any = replace(seeded_procedure(name), **changes)  # type: ignore[type-var]
    data = records()
    task = Task(data, Wild, RECIPE)
    victim = of.learn(task, 0)
    with pytest.raises(UserError, match=words):
        unlearned(of, task, victim, torch.eye(2, len(data)), 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_procedure_has_a_remedy(name: str) -> None:
    of: Any = procedure(name)
    said = of.remedy.format(of)
    assert "{" not in said
    assert "unlearning." in said or "training.lr" in said
