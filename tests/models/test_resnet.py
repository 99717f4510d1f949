"""ResNet-9 and ResNet-18 for small images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.errors import UserError
from models.resnet import ResNet9, ResNet18
from tests.models.checks import assert_initialisation_is_seeded, assert_per_example_gradients, parameter_count

BOTH = pytest.mark.parametrize("architecture", [ResNet9, ResNet18])


def convolution(inputs: int, outputs: int, size: int, norm: str) -> int:
    """Weights, and a bias or the scale and shift of the normalisation."""
    return size * size * inputs * outputs + outputs * (1 if norm == "none" else 2)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_parameters_by_formula(norm: str) -> None:
    w = 4
    nine = [(3, w), (w, 2 * w), (2 * w, 2 * w), (2 * w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)] + [(8 * w, 8 * w)] * 2
    expected = sum(convolution(a, b, 3, norm) for a, b in nine) + (8 * w + 1) * 10
    assert parameter_count(ResNet9(shape=(3, 32, 32), classes=10, width=w, norm=norm)) == expected

    eighteen = [(3, w)] + [(w, w)] * 4
    for before in (w, 2 * w, 4 * w):
        eighteen += [(before, 2 * before)] + [(2 * before, 2 * before)] * 3
    shortcuts = sum(convolution(before, 2 * before, 1, norm) for before in (w, 2 * w, 4 * w))
    expected = sum(convolution(a, b, 3, norm) for a, b in eighteen) + shortcuts + (8 * w + 1) * 10
    assert parameter_count(ResNet18(shape=(3, 32, 32), classes=10, width=w, norm=norm)) == expected


def test_standard_size_of_resnet18() -> None:
    """11,173,962 parameters: the count for ten classes of the usual variant for 32 x 32 colour images."""
    with torch.device("meta"):
        assert parameter_count(ResNet18(shape=(3, 32, 32), classes=10)) == 11_173_962


@BOTH
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_shapes(architecture: Any, shape: tuple[int, int, int]) -> None:
    model = architecture(shape=shape, classes=10, width=2)
    assert model(torch.zeros(3, *shape)).shape == (3, 10)
    assert model(torch.zeros(3, *shape)).isfinite().all()


@BOTH
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_gradients_and_initialisation(architecture: Any, norm: str) -> None:
    assert_per_example_gradients(architecture(shape=(2, 9, 8), classes=3, width=2, norm=norm), (2, 9, 8), examples=3)
    assert_initialisation_is_seeded(lambda: architecture(shape=(2, 8, 8), classes=3, width=2, norm=norm))


@BOTH
def test_blocks_are_residual(architecture: Any) -> None:
    """With all inner convolutions at zero, the output is that of the shortcuts."""
    model = architecture(shape=(1, 8, 8), classes=3, width=2, norm="none").eval()
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    inner = [p for name, p in model.named_parameters() if ".inner." in name or ".conv1." in name or ".conv2." in name]
    assert len(inner) == (8 if architecture is ResNet9 else 32)
    with torch.no_grad():
        for parameter in inner:
            parameter.zero_()
    if architecture is ResNet9:
        maps = model.layer1[1](model.layer1[0](model.stem(x)))
        maps = model.layer3[1](model.layer3[0](model.layer2(maps)))
        expected = model.head(maps.amax(dim=(2, 3)))
    else:
        maps = model.stem(x)
        for block in model.stages:
            maps = block.shortcut(maps).relu()
        expected = model.head(maps.mean(dim=(2, 3)))
    torch.testing.assert_close(model(x), expected)


@BOTH
def test_group_norm_has_no_state_and_batch_norm_has(architecture: Any) -> None:
    settings = {"shape": (1, 8, 8), "classes": 3, "width": 2}
    assert not dict(architecture(**settings, norm="group").named_buffers())
    assert any(name.endswith("running_mean") for name, _ in architecture(**settings, norm="batch").named_buffers())


@BOTH
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"shape": (107,)}, r"needs images .* shape \(107,\)"),
        ({"shape": (3, 7, 32)}, "at least 8 x 8 pixels, got 7 x 32"),
        ({"width": 0}, r"model\.width .* at least 1"),
        ({"norm": "instance"}, "choose group, batch or none"),
        ({"classes": 0}, "at least 2 classes"),
    ],
)
def test_refuses(architecture: Any, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        architecture(**({"shape": (3, 32, 32), "classes": 10} | settings))


@BOTH
def test_yaml_states_the_defaults(architecture: Any) -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "model" / f"{architecture.__name__.lower()}.yaml")
    with torch.device("meta"):
        built, default = instantiate(config)(shape=(3, 32, 32), classes=10), architecture(shape=(3, 32, 32), classes=10)
    assert str(built) == str(default)
