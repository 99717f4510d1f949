"""Solutions without iterations: dense factors, and Woodbury's identity over per-example gradients."""

from functools import partial

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.curvature import empirical_fisher, gauss_newton, hessian
from models.direct import curvature_matrix
from models.influence import inverse_curvature
from models.mlp import MLP
from models.solver import Solver
from models.training import initialise
from models.victim import Victim, stack
from tests.models.problems import N, deletions, directions, examples, victim

EXACT = Solver(method="exact", damping=0.05, tolerance=1e-11)


def solve_dense(make: object, models_: list[Victim], name: str, deleted: Tensor, shift: float, b: Tensor) -> Tensor:
    assert callable(make)
    matrices = [curvature_matrix(make, m, examples(name), d, shift) for m, d in zip(models_, deleted, strict=True)]
    return torch.stack([torch.linalg.solve(matrix, right) for matrix, right in zip(matrices, b, strict=True)])


def test_exact_solves_every_system_with_its_own_matrix() -> None:
    models_, deleted = [victim("mlp", seed) for seed in range(3)], deletions(3)
    vectors = directions(models_[0], 3)
    solution = inverse_curvature(EXACT, stack(models_), examples("mlp"), deleted, 0.1, vectors)
    assert (solution.x - solve_dense(gauss_newton, models_, "mlp", deleted, 0.15, vectors)).abs().max() < 1e-10
    assert (solution.residual <= 1e-11).all()
    assert (solution.iterations, solution.products) == (0, 1)


@pytest.mark.parametrize("method", ["exact", "cg", "dense", "lissa"])
def test_one_model_and_one_row_of_weights_serve_all_vectors(method: str) -> None:
    model, deleted = victim("mlp"), deletions(2)[1:]
    vectors = directions(model, 3)
    solver = Solver(method=method, damping=0.05, tolerance=1e-9, max_iterations=100_000)
    solution = inverse_curvature(solver, model.copies(1), examples("mlp"), deleted, 0.1, vectors)
    expected = solve_dense(gauss_newton, [model] * 3, "mlp", deleted.expand(3, -1), 0.15, vectors)
    assert (solution.x - expected).abs().max() < 1e-6


def test_exact_names_the_smallest_eigenvalue_of_a_hessian() -> None:
    """And what it says is enough."""
    model, deleted, vectors = victim("mlp"), deletions(1), directions(victim("mlp"), 1)
    lowest = torch.linalg.eigvalsh(curvature_matrix(hessian, model, examples("mlp"), deleted[0], 0.0))[0]
    weak = Solver(method="exact", curvature="hessian", damping=-0.5 * float(lowest))
    with pytest.raises(UserError, match=rf"about {lowest:.2g}, .* raise the solver's damping by") as told:
        inverse_curvature(weak, model.copies(1), examples("mlp"), deleted, 0.0, vectors)
    more = float(str(told.value).split("damping by ")[1].split(" ")[0])
    enough = Solver(method="exact", curvature="hessian", damping=-0.5 * float(lowest) + more)
    assert inverse_curvature(enough, model.copies(1), examples("mlp"), deleted, 0.0, vectors).residual[0] < 1e-3


def test_rounding_that_hides_the_solution_is_told() -> None:
    model, vectors = victim("mlp"), directions(victim("mlp"), 1)
    sharp = Solver(method="exact", damping=1e-9, tolerance=1e-16)
    with pytest.raises(UserError, match=r"Rounding leaves a relative residual"):
        inverse_curvature(sharp, model.copies(1), examples("mlp"), deletions(1), 0.0, vectors)


def medium() -> tuple[Victim, Examples, Tensor, Tensor]:
    """An MLP with 203 parameters, 40 examples, and two requests."""
    build = partial(MLP, shape=(6,), classes=3, widths=[20])
    model = Victim(*initialise(build, 0, torch.zeros(1, dtype=torch.float64)))
    rng = generator(0, "medium")
    data = Examples(torch.randn(40, 6, generator=rng, dtype=torch.float64), torch.randint(3, (40,), generator=rng))
    assert len(model.flat()) == 203
    return model, data, deletions(2, 40), directions(model, 2)


def test_woodbury_is_the_inverse_of_the_empirical_fisher() -> None:
    """1e-8 against a dense solve on about 200 parameters; conjugate gradients on all examples agree."""
    model, data, deleted, vectors = medium()
    matrices = [curvature_matrix(empirical_fisher, model, data, row, 1e-3) for row in deleted]
    expected = torch.stack([torch.linalg.solve(matrices[j], vectors[j]) for j in range(2)])
    for solver in (
        Solver(method="woodbury", curvature="fisher", damping=1e-3, rank=40, tolerance=1e-10),
        Solver(method="cg", curvature="fisher", damping=1e-3, tolerance=1e-12),
    ):
        solution = inverse_curvature(solver, model.copies(2), data, deleted, 0.0, vectors)
        assert ((solution.x - expected).norm(dim=1) <= 1e-8 * expected.norm(dim=1)).all()
    correction = (vectors - 1e-3 * expected)[0]  # in the span of the gradients, and of more than the first
    assert torch.linalg.matrix_rank(matrices[0] - 1e-3 * torch.eye(203, dtype=torch.float64)) == 40
    assert correction.norm() > 0.01 * vectors[0].norm()


def test_woodbury_on_a_part_of_the_examples() -> None:
    """The estimate on m drawn examples; the residual is that of its own matrix, and the draw is always the same."""
    model, data, deleted, vectors = medium()
    solver = Solver(method="woodbury", curvature="fisher", damping=0.1, rank=10, tolerance=1e-10)
    first, again = (inverse_curvature(solver, model.copies(2), data, deleted, 0.0, vectors) for _ in range(2))
    assert torch.equal(first.x, again.x)
    drawn = torch.randperm(40, generator=generator(0, "woodbury"))[:10]
    matrix = curvature_matrix(empirical_fisher, model, data[drawn], deleted[1, drawn], 0.1)
    assert (first.x[1] - torch.linalg.solve(matrix, vectors[1])).norm() <= 1e-8 * first.x[1].norm()


def test_woodbury_of_models_that_differ() -> None:
    models_, deleted = [victim("mlp", seed) for seed in range(3)], deletions(3)
    vectors = directions(models_[0], 3)
    solver = Solver(method="woodbury", curvature="fisher", damping=0.05, rank=N, tolerance=1e-10)
    solution = inverse_curvature(solver, stack(models_), examples("mlp"), deleted, 0.1, vectors)
    assert (solution.x - solve_dense(empirical_fisher, models_, "mlp", deleted, 0.15, vectors)).abs().max() < 1e-8


def test_woodbury_in_single_precision() -> None:
    """Rounding leaves some 1e-8 / damping; what is not reached is told."""
    model, data, deleted, vectors = medium()
    single = Victim(model.module, {name: value.float() for name, value in model.parameters.items()}, {})
    data = Examples(data.x.float(), data.y)

    def solve(tolerance: float) -> Tensor:
        solver = Solver(method="woodbury", curvature="fisher", damping=1e-3, rank=40, tolerance=tolerance)
        return inverse_curvature(solver, single.copies(2), data, deleted.float(), 0.0, vectors.float()).residual

    assert (solve(1e-3) <= 1e-4).all()
    with pytest.raises(UserError, match=r"not 1e-12; raise the solver's damping or tolerance"):
        solve(1e-12)


def test_too_many_gradients_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.preconditioner.HELD", 2000)
    model, data, deleted, vectors = medium()
    solver = Solver(method="woodbury", curvature="fisher", damping=0.1, rank=30)
    with pytest.raises(UserError, match=r"lower solver.rank to at most 9"):
        inverse_curvature(solver, model.copies(2), data, deleted, 0.0, vectors)
