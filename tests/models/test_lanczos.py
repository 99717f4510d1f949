"""The ends of a spectrum, against dense eigenvalues."""

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from models.curvature import hessian
from models.direct import curvature_matrix
from models.lanczos import extreme_eigenvalues
from tests.models.problems import deletions, directions, examples, victim


def rotated(values: Tensor, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=rng, dtype=torch.float64))
    return q @ torch.diag(values) @ q.T


def test_exact_after_as_many_products_as_dimensions() -> None:
    """Hessians of two models with deletions of their own, with a tolerance that nothing meets before."""
    model, deleted = victim("logistic"), deletions(2)
    like = directions(model, 2)
    matrices = [curvature_matrix(hessian, model, examples("logistic"), row, 0.1) for row in deleted]
    found = extreme_eigenvalues(hessian(model.copies(2), examples("logistic"), deleted, 0.1), like, 100, 1e-14)
    for j, matrix in enumerate(matrices):
        values = torch.linalg.eigvalsh(matrix)
        assert abs(found.lowest[j] - values[0]) < 1e-10
        assert abs(found.highest[j] - values[-1]) < 1e-10
    assert found.products <= len(model.flat())


def test_isolated_ends_are_found_in_few_products() -> None:
    """A bulk at zero, an end at each side, as the Hessian of a network has; the ends of two matrices differ."""
    bulk = torch.zeros(500, dtype=torch.float64)
    bulk[:250] = torch.linspace(0, 0.5, 250)
    matrices = []
    for j, (low, high) in enumerate([(-0.25, 12.0), (-3.0, 1.0)]):
        values = bulk.clone()
        values[-1], values[-2] = low, high
        matrices.append(rotated(values, j))
    stacked = torch.stack(matrices)
    found = extreme_eigenvalues(
        lambda v: torch.einsum("mpq,mq->mp", stacked, v), torch.zeros(2, 500, dtype=torch.float64)
    )
    torch.testing.assert_close(found.lowest, torch.tensor([-0.25, -3.0], dtype=torch.float64), rtol=1e-2, atol=0)
    torch.testing.assert_close(found.highest, torch.tensor([12.0, 1.0], dtype=torch.float64), rtol=1e-2, atol=0)
    assert found.products <= 40


def test_estimates_lie_inside_the_spectrum_and_the_error_is_a_bound() -> None:
    """Ritz values never leave the spectrum, and an eigenvalue lies within `error` of the lowest."""
    values = torch.randn(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    matrix = rotated(values, 5)
    for steps in (2, 5, 30):
        found = extreme_eigenvalues(lambda v: v @ matrix, torch.zeros(1, 200, dtype=torch.float64), steps, 0.0)
        assert values.min() - 1e-12 <= found.lowest[0] <= found.highest[0] <= values.max() + 1e-12
        assert (values - found.lowest[0]).abs().min() <= found.error[0] + 1e-12
        assert found.products == steps


@pytest.mark.parametrize("size", [1, 2, 30])
def test_invariant_subspaces(size: int) -> None:
    """A multiple of the identity, whose Krylov space has one dimension, beside a matrix that needs more."""
    other = rotated(torch.linspace(-1, 2, size, dtype=torch.float64), 0)
    stacked = torch.stack([3 * torch.eye(size, dtype=torch.float64), other])
    found = extreme_eigenvalues(
        lambda v: torch.einsum("mpq,mq->mp", stacked, v), torch.zeros(2, size, dtype=torch.float64), 100, 0.0
    )
    expected = torch.linalg.eigvalsh(stacked)
    torch.testing.assert_close(found.lowest, expected[:, 0])
    torch.testing.assert_close(found.highest, expected[:, -1])


def test_numbers_that_are_not_finite_are_told() -> None:
    with pytest.raises(UserError, match="not finite"):
        extreme_eigenvalues(lambda v: v * float("nan"), torch.zeros(1, 4))
