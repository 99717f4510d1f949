"""Multi-layer perceptrons."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.errors import UserError
from models.dropout import dropout_layers
from models.mlp import MLP
from tests.models.checks import assert_initialisation_is_seeded, assert_per_example_gradients, parameter_count


def test_parameters_and_values_by_formula() -> None:
    model = MLP(shape=(2, 3), classes=4, widths=[5, 7], activation="relu")
    assert parameter_count(model) == (6 + 1) * 5 + (5 + 1) * 7 + (7 + 1) * 4
    x = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    w1, b1, w2, b2, w3, b3 = model.parameters()
    hidden = ((x.flatten(1) @ w1.T + b1).relu() @ w2.T + b2).relu()
    torch.testing.assert_close(model(x), hidden @ w3.T + b3)


def test_without_widths_it_is_linear() -> None:
    assert parameter_count(MLP(shape=(6,), classes=4, widths=[])) == (6 + 1) * 4


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gradients_and_initialisation(activation: str) -> None:
    assert_per_example_gradients(MLP(shape=(1, 3, 2), classes=3, widths=[5], activation=activation), (1, 3, 2))
    assert_initialisation_is_seeded(lambda: MLP(shape=(6,), classes=3, activation=activation))


def test_dropout_follows_each_hidden_layer_and_adds_no_parameter() -> None:
    model = MLP(shape=(6,), classes=3, widths=[8, 5], dropout=0.5)
    assert [layer.width for layer in dropout_layers(model).values()] == [8, 5]
    assert parameter_count(model) == parameter_count(MLP(shape=(6,), classes=3, widths=[8, 5]))
    assert dropout_layers(MLP(shape=(6,), classes=3)) == {}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"widths": [32, 0]}, r"model\.widths .* at least 1"),
        ({"widths": [1.5]}, r"model\.widths .* at least 1"),
        ({"activation": "gelu"}, "choose tanh or relu"),
        ({"dropout": 1.0}, "less than 1"),
        ({"dropout": -0.1}, "at least 0"),
    ],
)
def test_refuses(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        MLP(shape=(4,), classes=3, **settings)


def test_yaml_states_the_defaults() -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "model" / "mlp.yaml")
    assert str(instantiate(config)(shape=(4,), classes=3)) == str(MLP(shape=(4,), classes=3))
    assert {key: config[key] for key in config if not key.startswith("_")} == MLP.__init__.__kwdefaults__ | {
        "widths": [32]
    }
