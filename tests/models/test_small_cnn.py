"""The small convolutional network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.errors import UserError
from models.small_cnn import SmallCNN
from tests.models.checks import assert_initialisation_is_seeded, assert_per_example_gradients, parameter_count


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_shapes_and_parameters_by_formula(shape: tuple[int, int, int], norm: str) -> None:
    model = SmallCNN(shape=shape, classes=10, widths=[6, 9], norm=norm).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 10)
    channels, height, width = shape
    each = 1 if norm == "none" else 2  # a bias, or a scale and a shift
    convolutions = (9 * channels + each) * 6 + (9 * 6 + each) * 9
    assert parameter_count(model) == convolutions + (9 * (height // 4) * (width // 4) + 1) * 10


def test_values_by_hand() -> None:
    model = SmallCNN(shape=(1, 4, 4), classes=2, widths=[3], norm="none")
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    kernel, bias, weight, offset = model.parameters()
    maps = torch.nn.functional.conv2d(x, kernel, bias, padding=1).relu()
    pooled = maps.reshape(2, 3, 2, 2, 2, 2).amax(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(model(x), pooled @ weight.T + offset)


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_gradients_and_initialisation(norm: str) -> None:
    assert_per_example_gradients(SmallCNN(shape=(1, 8, 8), classes=3, widths=[4, 6], norm=norm), (1, 8, 8))
    assert_initialisation_is_seeded(lambda: SmallCNN(shape=(1, 8, 8), classes=3, norm=norm))


def test_group_norm_does_not_mix_examples() -> None:
    model = SmallCNN(shape=(1, 8, 8), classes=3, norm="group").train()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x)[:1], model(x[:1]))
    assert dict(model.named_buffers()) == {}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"shape": (107,)}, r"needs images .* shape \(107,\)"),
        ({"shape": (1, 3, 8)}, "at least 4 x 4 pixels, got 3 x 8"),
        ({"widths": []}, r"model\.widths is empty"),
        ({"widths": [0]}, r"model\.widths .* at least 1"),
        ({"norm": "layer"}, "choose group, batch or none"),
        ({"classes": 1}, "at least 2 classes"),
    ],
)
def test_refuses(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SmallCNN(**({"shape": (1, 8, 8), "classes": 3} | settings))


def test_yaml_states_the_defaults() -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "model" / "small_cnn.yaml")
    built = instantiate(config)(shape=(1, 8, 8), classes=3)
    assert str(built) == str(SmallCNN(shape=(1, 8, 8), classes=3))
