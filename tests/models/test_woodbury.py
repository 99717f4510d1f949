"""Woodbury in sample space against dense solves with the Fisher matrix of a model's own gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import models.woodbury
from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.gradients import per_example_gradients
from models.mlp import MLP
from models.training import initialise
from models.victim import Victim
from models.woodbury import woodbury


def model_gradients(count: int) -> Tensor:
    """Gradients (count, 196) of a small network on random data, float64."""
    rng = generator(0, "data")
    x = torch.randn(count, 16, generator=rng, dtype=torch.float64)
    victim = Victim(*initialise(lambda: MLP(shape=(16,), classes=6, widths=[8]), 0, x))
    return per_example_gradients(victim, Examples(x, torch.randint(6, (count,), generator=rng)))


def dense(gradients: Tensor, weights: Tensor, damping: float, vectors: Tensor) -> Tensor:
    eye = torch.eye(gradients.shape[1], dtype=gradients.dtype)
    matrices = damping * eye + torch.einsum("ri,ip,iq->rpq", weights, gradients, gradients)
    return torch.linalg.solve(matrices, vectors)


def problem(m: int, r: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = generator(1, "problem")
    gradients = model_gradients(m)
    weights = torch.rand(r, m, generator=rng, dtype=torch.float64) / m
    weights[torch.rand(r, m, generator=rng) < 0.2] = 0
    return gradients, weights, torch.randn(r, gradients.shape[1], generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("damping", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("m", [1, 20, 400], ids=["one", "fewer than parameters", "more than parameters"])
def test_equals_a_dense_solve(m: int, damping: float) -> None:
    """Relative error below 1e-8; rounding allows about 1e-16 times the condition, at most 1e5 here."""
    gradients, weights, vectors = problem(m, 3)
    expected = dense(gradients, weights, damping, vectors)
    found = woodbury(gradients, weights, damping, vectors)
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-8


def test_without_weights_it_divides_by_the_damping() -> None:
    gradients, weights, vectors = problem(20, 2)
    assert torch.equal(woodbury(gradients, 0 * weights, 0.25, vectors), vectors / 0.25)


def test_single_precision_is_refined() -> None:
    """Relative residuals below 100 roundings at a condition of 1e4; without refinement they are 10,000 roundings."""
    gradients, weights, _ = (each.float() for each in problem(400, 3))
    damping = 1e-4 * float(torch.linalg.matrix_norm(weights[0, :, None] ** 0.5 * gradients, 2) ** 2)
    x = woodbury(gradients, weights, damping, gradients[:3])
    left = gradients[:3] - damping * x - (weights * (x @ gradients.T)) @ gradients
    assert (left.norm(dim=1) / gradients[:3].norm(dim=1)).max() < 100 * torch.finfo(torch.float32).eps


def test_the_correction_has_the_rank_of_the_gradients() -> None:
    """The official recursion would give corrections of rank one."""
    gradients, _, vectors = problem(12, 30)
    weights = torch.full((30, 12), 1 / 12, dtype=torch.float64)
    correction = woodbury(gradients, weights, 0.1, vectors) - vectors / 0.1
    assert torch.linalg.matrix_rank(gradients) == 12
    assert torch.linalg.matrix_rank(correction, rtol=1e-10) == 12


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 2**11))
def test_memory_bounds_change_nothing(m: int, r: int, entries: int) -> None:
    gradients, weights, vectors = problem(m, r)
    whole = woodbury(gradients, weights, 0.01, vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.woodbury, "ENTRIES", entries)
        assert (woodbury(gradients, weights, 0.01, vectors) - whole).abs().max() < 1e-9 * whole.abs().max()


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan")])
def test_damping_must_be_positive(damping: float) -> None:
    with pytest.raises(UserError, match="must be positive"):
        woodbury(*problem(3, 1)[:2], damping, problem(3, 1)[2])


def test_a_damping_lost_in_rounding_is_an_error() -> None:
    """Ten equal gradients in float32: the kernel has rank one, so its other pivots are rounding alone."""
    gradients = torch.ones(10, 50) / 3
    with pytest.raises(UserError, match="raise the damping"):
        woodbury(gradients, torch.ones(1, 10), 1e-30, torch.ones(1, 50))
