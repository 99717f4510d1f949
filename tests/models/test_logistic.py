"""Logistic regression."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.errors import UserError
from models.logistic import Logistic
from tests.models.checks import assert_initialisation_is_seeded, assert_per_example_gradients, parameter_count


def test_logits_are_linear_in_the_flattened_input() -> None:
    model = Logistic(shape=(2, 3, 4), classes=5)
    x = torch.randn(7, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = x.reshape(7, 24) @ model.linear.weight.T + model.linear.bias
    torch.testing.assert_close(model(x), expected)
    assert parameter_count(model) == (24 + 1) * 5


def test_gradients_and_initialisation() -> None:
    assert_per_example_gradients(Logistic(shape=(6,), classes=3), (6,))
    assert_initialisation_is_seeded(lambda: Logistic(shape=(6,), classes=3))


@pytest.mark.parametrize(("shape", "classes"), [((), 3), ((0,), 3), ((4,), 1)])
def test_refuses(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(UserError, match="check the"):
        Logistic(shape=shape, classes=classes)


def test_yaml() -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "model" / "logistic.yaml")
    assert instantiate(config)(shape=(4,), classes=3)(torch.zeros(2, 4)).shape == (2, 3)
