"""Dropout draws nothing by itself; its masks come from a generator and are passed as buffers."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from data.errors import UserError
from data.randomness import generator
from models.dropout import Dropout, dropout_layers, sample_masks
from models.mlp import MLP


def test_is_the_identity_by_itself_and_leaves_the_global_generator() -> None:
    layer = Dropout(rate=0.9, width=4).train()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    assert torch.equal(layer(x), x)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_masks_have_mean_one_and_two_values(rate: float) -> None:
    module = nn.Sequential(nn.Linear(3, 50), Dropout(rate=rate, width=50))
    (mask,) = sample_masks(module, generator(0, "test"), (4000,)).values()
    assert mask.shape == (4000, 50)
    values = mask.unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 1 / (1 - rate)]))
    # variance of one entry: rate / (1 - rate); 200,000 entries, 6 standard errors
    assert abs(mask.double().mean().item() - 1) < 6 * math.sqrt(rate / (1 - rate) / mask.numel())


def test_masks_of_a_precise_model_are_precise() -> None:
    """1 / (1 - rate) is rounded once, to the type of the model that uses it."""
    module = Dropout(rate=0.3, width=50)
    (mask,) = sample_masks(module, generator(0, "test"), (9,), torch.float64).values()
    assert set(mask.unique().tolist()) == {0.0, 1 / (1 - 0.3)}


def test_masks_reach_the_layers_under_vmap() -> None:
    """One thinned network per sample: mapped over, the same as passing the masks one by one and as masking by hand."""
    model = MLP(shape=(3,), classes=2, widths=[6], dropout=0.5).eval()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    masks = sample_masks(model, generator(0, "test"), (7,))
    together = vmap(lambda mask: functional_call(model, mask, (x,)))(masks)
    assert together.shape == (7, 5, 2)
    w1, b1, w2, b2 = model.parameters()
    (mask,) = masks.values()
    for i in range(7):
        torch.testing.assert_close(together[i], ((x @ w1.T + b1).tanh() * mask[i]) @ w2.T + b2)


def test_one_mask_per_example() -> None:
    model = MLP(shape=(3,), classes=2, widths=[6, 4], dropout=0.5).eval()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    masks = sample_masks(model, generator(0, "test"), (5,))
    assert list(masks) == [f"{name}.mask" for name in dropout_layers(model)]
    together = functional_call(model, masks, (x,))
    for i in range(5):
        alone = functional_call(model, {name: mask[i] for name, mask in masks.items()}, (x[i : i + 1],))
        torch.testing.assert_close(together[i : i + 1], alone)


def test_draws_depend_on_the_generator_only() -> None:
    model = MLP(shape=(3,), classes=2, widths=[6], dropout=0.5).double()
    first, second, other = (sample_masks(model, generator(seed, "test"), (9,)) for seed in (1, 1, 2))
    (name,) = first
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])
    assert first[name].dtype == torch.float64
    assert list(sample_masks(Dropout(rate=0.5, width=2), generator(0, "test"), ())) == ["mask"]
    assert sample_masks(nn.Linear(2, 2), generator(0, "test"), (3,)) == {}


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_refuses(rate: float) -> None:
    with pytest.raises(UserError, match="at least 0 and less than 1"):
        Dropout(rate=rate, width=3)
