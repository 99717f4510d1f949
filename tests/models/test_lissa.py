"""LiSSA with all examples and with random batches, against direct solutions and conjugate gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from models.curvature import gauss_newton, hessian
from models.direct import curvature_matrix
from models.influence import inverse_curvature
from models.lissa import lissa, stochastic_lissa
from models.solver import Solver, conjugate_gradients
from tests.models.problems import N, deletions, directions, examples, victim

Product = Callable[[Tensor], Tensor]
DAMPING = 0.05


def system(name: str) -> tuple[Product, Tensor, Tensor]:
    """A product for two rows, its dense matrices with damping (2, p, p), and right-hand sides."""
    model, data, deleted = victim(name), examples(name), deletions(2)
    matrices = torch.stack([curvature_matrix(gauss_newton, model, data, row, DAMPING) for row in deleted])
    return gauss_newton(model.copies(2), data, deleted, DAMPING), matrices, directions(model, 2)


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_reaches_the_inverse_in_the_promised_number_of_steps(name: str) -> None:
    """scale >= lambda_max and 20 scale / (damping + lambda_min) steps leave 1e-6; it agrees with CG.

    A step multiplies the error by at most 1 - mu / scale, so 20 scale / mu steps leave exp(-20) = 2.1e-9 of the
    residual, and the error is at most its condition number, here below 400, times that.
    """
    product, matrices, b = system(name)
    values = torch.linalg.eigvalsh(matrices)
    scale, mu = float(values[:, -1].max()), float(values[:, 0].min())
    steps = math.ceil(20 * scale / mu)
    solution = lissa(product, b, scale, 2.1e-9, steps)
    exact = torch.linalg.solve(matrices, b)
    assert scale / mu < 400
    assert ((solution.x - exact).norm(dim=1) <= 1e-6 * exact.norm(dim=1)).all()
    assert solution.iterations < steps
    assert solution.products == solution.iterations + 1
    cg = conjugate_gradients(product, b, 1e-10, 500)
    assert ((solution.x - cg.x).norm(dim=1) <= 1e-6 * cg.x.norm(dim=1)).all()
    true = (b - product(solution.x)).norm(dim=1) / b.norm(dim=1)
    torch.testing.assert_close(solution.residual, true)


def test_scale_only_has_to_exceed_half_the_largest_eigenvalue() -> None:
    """|1 - lambda / scale| < 1 for lambda < 2 scale: a bit above half converges, a bit below grows and is told."""
    product, matrices, b = system("mlp")
    highest = float(torch.linalg.eigvalsh(matrices).max())
    assert (lissa(product, b, 0.55 * highest, 1e-6, 20_000).residual <= 1e-6).all()
    with pytest.raises(UserError, match=r"grow: solver.scale=.* raise solver.scale or solver.damping"):
        lissa(product, b, 0.45 * highest, 1e-6, 20_000)


def test_negative_curvature_grows() -> None:
    model, data, deleted = victim("mlp"), examples("mlp"), deletions(2)
    matrix = curvature_matrix(hessian, model, data, deleted[0], 0.0)
    values = torch.linalg.eigvalsh(matrix)
    assert values[0] < -1e-3
    with pytest.raises(UserError, match="negative"):
        lissa(hessian(model.copies(2), data, deleted, 0.0), directions(model, 2), 2 * float(values[-1]), 1e-6, 50_000)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_no_solution(bad: float) -> None:
    b = torch.tensor([[1.0, bad]])
    with pytest.raises(UserError, match="grow"):
        lissa(lambda v: v, b, 2.0, 1e-3, 10)


def test_too_few_steps_are_told() -> None:
    product, matrices, b = system("mlp")
    with pytest.raises(UserError, match=r"relative residual of \d.*, not 1e-06, in 5 steps; raise solver.damping"):
        lissa(product, b, 2 * float(torch.linalg.eigvalsh(matrices).max()), 1e-6, 5)


def test_zero_right_hand_side() -> None:
    product, matrices, b = system("mlp")
    b[0] = 0
    solution = lissa(product, b, float(torch.linalg.eigvalsh(matrices).max()), 1e-8, 10_000)
    assert not solution.x[0].any()
    assert solution.residual[0] == 0


def test_random_batches_of_everything_are_the_full_series() -> None:
    """Where a batch is all examples the two methods do the same steps."""
    product, matrices, b = system("mlp")
    scale = float(torch.linalg.eigvalsh(matrices).max())
    drawn = stochastic_lissa(product, lambda: product, b, scale, 1e-9, 100_000, repetitions=2)
    full = lissa(product, b, scale, 1e-9, 100_000)
    assert (drawn.x - full.x).norm() <= 1e-6 * full.x.norm()
    assert drawn.iterations >= full.iterations
    assert drawn.iterations % 50 == 0


def test_random_batches_come_from_the_generator_that_is_passed() -> None:
    """Unbiased matrices from a generator: the mean of many runs is near, one run is as random as its generator."""
    matrix = torch.diag(torch.linspace(0.5, 1.5, 6, dtype=torch.float64))
    b = torch.ones(1, 6, dtype=torch.float64)

    def solve(seed: int, repetitions: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)

        def sample() -> Product:
            factor = 0.5 + torch.rand((), generator=rng, dtype=torch.float64)  # mean one
            return lambda v: factor * v @ matrix

        return stochastic_lissa(lambda v: v @ matrix, sample, b, 20.0, 0.1, 400, repetitions).x

    assert torch.equal(solve(0, 2), solve(0, 2))
    assert not torch.equal(solve(0, 2), solve(1, 2))
    exact = b / matrix.diagonal()
    assert (solve(0, 20) - exact).norm() < 0.1 * exact.norm()


def test_random_batches_that_grow_are_told() -> None:
    with pytest.raises(UserError, match="of a batch"):
        stochastic_lissa(lambda v: v, lambda: lambda v: 5 * v, torch.ones(1, 3), 1.0, 1e-3, 1000)
    with pytest.raises(UserError, match=r"not 0.001, in 50 steps"):
        stochastic_lissa(lambda v: v, lambda: lambda v: v, torch.ones(1, 3), 1e4, 1e-3, 50)


@pytest.mark.parametrize("settings", [{}, {"scale": 20.0}, {"batch_size": N, "scale": 60.0, "repetitions": 3}])
def test_as_a_method_of_the_solver(settings: dict[str, float]) -> None:
    """Without a scale it is estimated; batches are drawn with replacement and so only nearly solve."""
    model, data, deleted = victim("mlp"), examples("mlp"), deletions(2)
    tolerance = 0.3 if "batch_size" in settings else 1e-7
    solver = Solver(method="lissa", damping=0.5, tolerance=tolerance, max_iterations=20_000, **settings)  # type: ignore[arg-type]
    vectors = directions(model, 2)
    solution = inverse_curvature(solver, model.copies(2), data, deleted, 0.0, vectors)
    matrices = torch.stack([curvature_matrix(gauss_newton, model, data, row, 0.5) for row in deleted])
    left = (torch.einsum("mpq,mq->mp", matrices, solution.x) - vectors).norm(dim=1) / vectors.norm(dim=1)
    assert (left <= tolerance * 1.001).all()
    torch.testing.assert_close(left, solution.residual, rtol=1e-6, atol=1e-12)
