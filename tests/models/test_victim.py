"""Trained models as data."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import models.victim
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.training import initialise
from models.victim import ModelStack, Victim, concatenate, flatten, stack, unflatten

LIKE = torch.zeros(1, dtype=torch.float64)
BUILD = partial(MLP, shape=(5,), classes=3, widths=[4])


def victim(seed: int) -> Victim:
    return Victim(*initialise(BUILD, seed, LIKE))


def inputs(n: int) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def plain(model: Victim) -> nn.Module:
    """The same model as a module of its own."""
    module = BUILD().double().eval()
    module.load_state_dict(model.parameters)
    return module


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4), st.lists(st.integers(1, 3), max_size=2)
)
def test_unflatten_inverts_flatten(shapes: list[list[int]], leading: list[int]) -> None:
    like = {str(i): torch.zeros(shape) for i, shape in enumerate(shapes)}
    size = sum(value.numel() for value in like.values())
    flat = torch.randn(*leading, size)
    pieces = unflatten(flat, like)
    assert {name: value.shape for name, value in pieces.items()} == {
        name: (*leading, *value.shape) for name, value in like.items()
    }
    joined = torch.cat([value.reshape(*leading, -1) for value in pieces.values()], dim=-1)
    assert torch.equal(joined, flat)
    if not leading:
        assert torch.equal(flatten(pieces), flat)


def test_logits_are_those_of_the_module() -> None:
    model, x = victim(0), inputs(7)
    torch.testing.assert_close(model.logits(x), plain(model)(x).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.probabilities(x).sum(1), torch.ones(7, dtype=torch.float64))
    assert not model.logits(x).requires_grad
    assert torch.equal(model.flat(), flatten(model.parameters))


def test_module_of_a_victim_is_never_read() -> None:
    model, x = victim(0), inputs(3)
    before = model.logits(x)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.fill_(float("nan"))
    assert torch.equal(model.logits(x), before)


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
def test_logits_do_not_depend_on_the_size_of_a_pass(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = victim(0), inputs(10)
    pair = stack([model, victim(1)])
    alone, together = model.logits(x), pair.logits(x)
    sizes: list[int] = []

    def counted(module: nn.Module, parameters: dict[str, Tensor], buffers: dict[str, Tensor], part: Tensor) -> Tensor:
        sizes.append(len(part))  # of every model of a pass
        return original(module, parameters, buffers, part)

    original = models.victim.forward
    monkeypatch.setattr(models.victim, "forward", counted)
    monkeypatch.setattr(models.victim, "INFERENCE_ROWS", rows)
    torch.testing.assert_close(model.logits(x), alone, rtol=1e-12, atol=1e-12)
    assert max(sizes) == min(rows, 10)
    sizes.clear()
    torch.testing.assert_close(pair.logits(x), together, rtol=1e-12, atol=1e-12)
    assert max(sizes) == min(rows, 10)
    assert len(sizes) == math.ceil(10 / min(rows, 10)) * (1 if rows >= 20 else 2)  # both models in a pass, or one


def test_a_clone_shares_no_memory() -> None:
    ensemble = stack([victim(0), victim(1)])
    own = ensemble[1].clone()
    before = own.flat().clone()
    for value in ensemble.parameters.values():
        value.fill_(0)
    assert torch.equal(own.flat(), before)


def test_no_inputs_give_no_logits() -> None:
    assert victim(0).logits(inputs(0)).shape == (0, 3)
    assert stack([victim(0), victim(1)]).logits(inputs(0)).shape == (2, 0, 3)


def test_ensemble_holds_its_victims() -> None:
    victims, x = [victim(seed) for seed in range(3)], inputs(4)
    ensemble = stack(victims)
    assert len(ensemble) == 3
    for i, model in enumerate(victims):
        assert torch.equal(ensemble[i].flat(), model.flat())
        assert torch.equal(ensemble.flat()[i], model.flat())
        torch.testing.assert_close(ensemble.logits(x)[i], model.logits(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(ensemble[-1].flat(), victims[2].flat())
    torch.testing.assert_close(ensemble.probabilities(x), ensemble.logits(x).softmax(-1))
    with pytest.raises(IndexError):
        ensemble[3]


def test_concatenate_keeps_the_order() -> None:
    victims = [victim(seed) for seed in range(5)]
    joined = concatenate([stack(victims[:2]), stack(victims[2:3]), stack(victims[3:])])
    assert torch.equal(joined.flat(), torch.stack([model.flat() for model in victims]))


def test_moved_adds_each_step() -> None:
    model = victim(0)
    step = torch.randn(4, len(model.flat()), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before = model.flat().clone()
    moved = model.moved(step)
    assert torch.equal(moved.flat(), before + step)
    assert torch.equal(model.flat(), before)
    assert len(moved) == 4


def test_buffers_travel_with_the_models() -> None:
    """Batch-norm statistics differ between two models, and each uses its own."""
    build = partial(SmallCNN, shape=(1, 4, 4), classes=2, widths=[2], norm="batch")
    models_ = [Victim(*initialise(build, seed, LIKE)) for seed in range(2)]
    means = [value for name, value in models_[1].buffers.items() if name.endswith("running_mean")]
    assert len(means) == 1
    means[0].fill_(0.7)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ensemble: ModelStack = concatenate([stack(models_[:1]), stack(models_[1:])])
    for i, model in enumerate(models_):
        torch.testing.assert_close(ensemble.logits(x)[i], model.logits(x), rtol=1e-12, atol=1e-12)
        assert all(torch.equal(ensemble[i].buffers[name], value) for name, value in model.buffers.items())
    steps = torch.zeros(2, len(models_[1].flat()), dtype=torch.float64)
    torch.testing.assert_close(models_[1].moved(steps).logits(x)[1], models_[1].logits(x), rtol=1e-12, atol=1e-12)
