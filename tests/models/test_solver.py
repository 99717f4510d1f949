"""Conjugate gradients on batches of systems, against a direct solution."""

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from models.solver import Solver, cholesky_preconditioner, conjugate_gradients


def positive(m: int, size: int, condition: float = 100.0, seed: int = 0) -> Tensor:
    """m symmetric matrices with eigenvalues from 1 to `condition`."""
    rng = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(m, size, size, generator=rng, dtype=torch.float64))
    return q @ torch.diag_embed(torch.logspace(0, 1, size, base=condition, dtype=torch.float64).expand(m, -1)) @ q.mT


def right(m: int, size: int) -> Tensor:
    return torch.randn(m, size, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


class Counted:
    """Rows times their own matrix; records the calls."""

    def __init__(self, matrices: Tensor) -> None:
        self.matrices, self.calls = matrices, 0

    def __call__(self, vectors: Tensor) -> Tensor:
        self.calls += 1
        return torch.einsum("mpq,mq->mp", self.matrices, vectors)


@pytest.mark.parametrize(("m", "size"), [(1, 5), (4, 20), (30, 8)])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6, 1e-12])
def test_solves_to_the_tolerance(m: int, size: int, tolerance: float) -> None:
    """||x - x*|| <= ||A^-1|| ||residual|| <= tolerance ||b||, since the smallest eigenvalue is one."""
    matrices, b = positive(m, size), right(m, size)
    product = Counted(matrices)
    solution = conjugate_gradients(product, b, tolerance, 200)
    exact = torch.linalg.solve(matrices, b)
    assert ((solution.x - exact).norm(dim=1) <= 1.01 * tolerance * b.norm(dim=1)).all()
    true = (b - torch.einsum("mpq,mq->mp", matrices, solution.x)).norm(dim=1) / b.norm(dim=1)
    torch.testing.assert_close(solution.residual, true, rtol=1e-6, atol=1e-15)
    assert product.calls == solution.products == solution.iterations + 1


def test_reported_residual_is_the_true_one_and_not_that_of_the_recursion() -> None:
    """In single precision at condition 1e6 the recursion drifts from the truth, which is what must be reported."""
    matrices, b = positive(1, 60, condition=1e6).float(), right(1, 60).float()
    solution = conjugate_gradients(Counted(matrices), b, 1e-6, 5000)
    exact = b.double() - torch.einsum("mpq,mq->mp", matrices.double(), solution.x.double())
    true = exact.norm() / b.double().norm()
    assert true > 2e-6
    assert 0.5 < solution.residual[0].double() / true < 2


def test_converged_rows_rest() -> None:
    """A row solved in one step keeps its answer, bit by bit, while others go on."""
    matrices = positive(3, 20)
    matrices[1] = 2 * torch.eye(20, dtype=torch.float64)
    b = right(3, 20)
    solution = conjugate_gradients(Counted(matrices), b, 1e-10, 200)
    assert solution.iterations > 10
    assert torch.equal(solution.x[1], conjugate_gradients(Counted(matrices[1:2]), b[1:2], 1e-10, 200).x[0])
    assert (solution.residual <= 1.01e-10).all()


def test_zero_right_hand_side() -> None:
    matrices, b = positive(3, 6), right(3, 6)
    b[1] = 0
    solution = conjugate_gradients(Counted(matrices), b, 1e-8, 100)
    assert torch.equal(solution.x[1], torch.zeros(6, dtype=torch.float64))
    assert solution.residual[1] == 0
    assert (solution.residual <= 1.01e-8).all()
    nothing = conjugate_gradients(Counted(matrices), torch.zeros_like(b), 1e-8, 100)
    assert nothing.iterations == 0
    assert not nothing.x.any()


def test_negative_curvature_is_named() -> None:
    matrices = positive(2, 6)
    matrices[1, 0, 0] -= 1000
    with pytest.raises(UserError, match=r"not a positive number .* raise the solver's damping"):
        conjugate_gradients(Counted(matrices), right(2, 6), 1e-8, 100)


@pytest.mark.parametrize("where", ["matrix", "right"])
def test_numbers_that_are_not_finite_never_pass_for_a_solution(where: str) -> None:
    matrices, b = positive(2, 6), right(2, 6)
    (matrices[1, 0] if where == "matrix" else b[1])[2] = float("nan")
    with pytest.raises(UserError, match="not a positive number"):
        conjugate_gradients(Counted(matrices), b, 1e-8, 100)


def test_too_few_iterations_are_named() -> None:
    with pytest.raises(UserError, match=r"relative residual of \d.*, not 1e-10, in 3 iterations; raise the solver's"):
        conjugate_gradients(Counted(positive(2, 20)), right(2, 20), 1e-10, 3)


def test_preconditioner_of_a_nearby_matrix_saves_iterations() -> None:
    """The exact inverse needs one step; that of a matrix a few per cent away a handful, whatever the condition."""
    matrix, b = positive(1, 30, condition=1e4)[0], right(5, 30)
    product = Counted(matrix.expand(5, -1, -1))
    plain = conjugate_gradients(product, b, 1e-10, 1000)
    exact = conjugate_gradients(product, b, 1e-10, 1000, cholesky_preconditioner(matrix))
    assert exact.iterations <= 2 < 25 < plain.iterations
    torch.testing.assert_close(exact.x, torch.linalg.solve(matrix, b.T).T, rtol=1e-8, atol=1e-8)
    near = Counted(matrix.expand(5, -1, -1) * torch.linspace(0.99, 1.01, 5, dtype=torch.float64)[:, None, None])
    near.matrices = near.matrices + 0.01 * positive(5, 30, condition=1.0, seed=1)
    assert conjugate_gradients(near, b, 1e-10, 1000, cholesky_preconditioner(matrix)).iterations < 10


def test_cholesky_inverts_rows_and_refuses_indefinite_matrices() -> None:
    matrix, b = positive(1, 7)[0], right(3, 7)
    torch.testing.assert_close(cholesky_preconditioner(matrix)(b), torch.linalg.solve(matrix, b.T).T)
    with pytest.raises(UserError, match="not positive definite"):
        cholesky_preconditioner(matrix - 2 * torch.eye(7, dtype=torch.float64))


def test_a_preconditioner_may_change_from_step_to_step() -> None:
    """Another inverse in every step, each off by up to a factor of two: a fixed formula for directions would stall."""
    matrix, b = positive(1, 40, condition=1e4)[0], right(3, 40)
    inverse, calls = torch.linalg.inv(matrix), [0]

    def changing(vectors: Tensor) -> Tensor:
        calls[0] += 1
        rng = torch.Generator().manual_seed(calls[0])
        return (vectors @ inverse) * (0.75 + 0.5 * torch.rand(40, generator=rng, dtype=torch.float64))

    solution = conjugate_gradients(Counted(matrix.expand(3, -1, -1)), b, 1e-8, 150, changing)
    plain = conjugate_gradients(Counted(matrix.expand(3, -1, -1)), b, 1e-8, 1000)
    assert solution.iterations < plain.iterations
    assert (solution.residual <= 1.01e-8).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"damping": -1},
        {"tolerance": 0},
        {"max_iterations": 0},
        {"method": "newton"},
        {"layers": "first"},
        {"rank": 0},
        {"scale": 0.0, "method": "lissa"},
        {"preconditioner": "nystroem", "method": "exact"},
        {"scale": 10.0},
        {"batch_size": 10},
        {"curvature": "hessian", "method": "woodbury"},
        {"repetitions": 2, "method": "lissa"},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"(?i){next(iter(wrong))}"):
        Solver(**wrong)  # type: ignore[arg-type]
