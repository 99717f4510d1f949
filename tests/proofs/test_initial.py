"""The test of first weights: its statistic is exact, honest draws pass at the rate that it says, others do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data.digits import Digits
from data.randomness import seeded
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.stepwise import State
from models.training import Training
from proofs.audits import CHECKS
from proofs.initial import constants, p_values, uniform_bounds, uniform_distance
from proofs.problems import Expected
from tests.proofs.altered import altered, at, recorded

NOBODY = torch.tensor([], dtype=torch.long)


def cnn(norm: str = "batch") -> nn.Module:
    return SmallCNN(shape=(1, 8, 8), classes=10, widths=[4, 6], norm=norm)


def test_the_statistic_and_its_p_value_are_those_of_scipy() -> None:
    from scipy.stats import kstest, kstwo, uniform

    values = torch.rand(57, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1.7 - 0.9
    own = uniform_distance(values, 0.9)
    other = kstest(values.numpy(), uniform(-0.9, 1.8).cdf, method="exact")
    assert own == pytest.approx(other.statistic, rel=1e-12)
    assert kstwo.sf(own, 57) == pytest.approx(other.pvalue, rel=1e-9)


@pytest.mark.parametrize("values", [[0.0], [-0.5, 0.5], [3.0, 4.0]])
def test_the_statistic_by_hand(values: list[float]) -> None:
    """One value in the middle is 1/2 away; -b/2 and b/2 are 1/4 away; values beyond the bounds are 1 away."""
    due = {1: 0.5, 2: 0.25 if values[0] < 0 else 1.0}[len(values)]
    assert uniform_distance(torch.tensor(values), 1.0) == due


def test_bounds_are_those_that_torch_draws_within() -> None:
    """The largest of n uniform numbers is below (1 - 20/n) of the bound with probability e^-20."""
    with seeded(0):
        module = cnn("none")
    bounds = uniform_bounds(module)
    assert set(bounds) == {name for name, _ in module.named_parameters()}
    assert constants(module) == {}
    for name, bound in bounds.items():
        values = module.get_parameter(name).detach().abs()
        assert bound * (1 - 20 / values.numel()) < float(values.max()) <= bound, name


def test_normalisation_begins_with_one_and_zero() -> None:
    assert constants(cnn()) == {f"blocks.{i}.{n}": v for i in (1, 5) for n, v in (("weight", 1.0), ("bias", 0.0))}
    module = cnn()
    tensors = {name: value.detach().clone() for name, value in module.named_parameters()}
    assert p_values(tensors, module)["blocks.1.bias"] == 1
    tensors["blocks.1.bias"][2] = 1e-9
    assert p_values(tensors, module)["blocks.1.bias"] == 0


def test_honest_first_weights_are_rejected_no_more_often_than_said() -> None:
    """400 draws of a network with 6 tensors, at 1% over all: at most 1% and three standard errors, 2.5%."""
    from scipy.stats import kstwo

    bounds = uniform_bounds(cnn("none"))
    assert len(bounds) == 6
    most = {name: kstwo.isf(0.01 / 6, cnn("none").get_parameter(name).numel()) for name in bounds}
    rejected = 0
    for seed in range(400):
        with seeded(seed):
            drawn = dict(cnn("none").named_parameters())
        rejected += any(uniform_distance(drawn[name], bounds[name]) > most[name] for name in bounds)
    assert rejected / 400 <= 0.01 + 3 * (0.01 * 0.99 / 400) ** 0.5


def scaled(by: float) -> Callable[[State], State]:
    def change(state: State) -> State:
        found = state.clone()
        found.weights.mul_(by)
        return found

    return change


class Own(MLP):
    """An MLP that begins with zeros."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for value in self.parameters():
            nn.init.zeros_(value)


def test_trained_and_scaled_weights_are_no_draw(tmp_path: Path) -> None:
    records = Digits(train=300).load().train
    build = partial(MLP, shape=(1, 8, 8), classes=10, widths=[32])
    training = Training(epochs=20, batch_size=300, lr=0.5, momentum=0.0, schedule="constant")
    proof, final = recorded(tmp_path / "proof", records, build, training, NOBODY, [(torch.arange(300), None)] * 60)
    expected = Expected(records, NOBODY, build)
    audit = CHECKS["initial_distribution"]
    assert audit(proof, expected) == []
    others = {
        "shrunk": scaled(0.9), "spread": scaled(1.1), "no number": scaled(float("nan")),
        "trained": lambda state: State(final.flat(), {}, {}),
        "on the way": lambda state: State(0.5 * (final.flat() + state.weights), {}, {}),
    }  # fmt: skip
    for name, change in others.items():
        [problem] = audit(altered(proof, tmp_path / name, at(0, state=change)), expected)
        assert (problem.check, problem.step, problem.field) == ("initial_distribution", 0, "weights"), name
    shrunk = altered(proof, tmp_path / "own", at(0, state=scaled(0.9)))
    assert audit(shrunk, replace(expected, build=partial(Own, shape=(1, 8, 8), classes=10, widths=[32]))) == []
