"""The inverse curvature by either method, and the life of its factor."""

import gc
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import models.influence
import models.passes
from data.errors import UserError
from models.curvature import dense, gauss_newton, hessian
from models.influence import inverse_curvature
from models.mlp import MLP
from models.solver import Solver
from models.training import initialise
from models.victim import Victim, stack
from tests.models.problems import deletions, directions, examples, victim

CG = Solver(method="cg", damping=0.05, tolerance=1e-12)
DENSE = Solver(method="dense", damping=0.05, tolerance=1e-12)


def exact(name: str, models_: list[Victim], deleted: Tensor, shift: float, vectors: Tensor, make: Any) -> Tensor:
    """By dense matrices, one for each model."""
    rows = []
    for j, model in enumerate(models_):

        def product(v: Tensor, model: Victim = model, j: int = j) -> Tensor:
            return make(stack([model] * len(v)), examples(name), deleted[j].expand(len(v), -1), shift)(v)

        matrix = dense(product, len(model.flat()), model.flat())
        rows.append(torch.linalg.solve(matrix, vectors[j]))
    return torch.stack(rows)


@pytest.mark.parametrize("solver", [CG, DENSE], ids=["cg", "dense"])
@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_both_methods_solve_the_same_systems(name: str, solver: Solver) -> None:
    """Models and deletions of their own; relative residual 1e-12 over a smallest eigenvalue of at least 0.15."""
    models_, deleted = [victim(name, seed) for seed in range(3)], deletions(3)
    vectors = directions(models_[0], 3)
    solution = inverse_curvature(solver, stack(models_), examples(name), deleted, 0.1, vectors, base=models_[0])
    expected = exact(name, models_, deleted, 0.15, vectors, gauss_newton)
    assert (solution.x - expected).abs().max() < 1e-9
    assert (solution.residual < 1.01e-12).all()


@pytest.mark.parametrize("layers", ["all", "last"])
def test_no_more_rows_are_iterated_than_models_are_held(layers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many vectors come: iterations hold several of each. What is solved does not depend on it."""
    model, seen = victim("mlp"), list[int]()
    vectors, nothing = directions(model, 7), deletions(1) * 0
    solver = Solver(method="cg", damping=0.05, tolerance=1e-12, layers=layers)
    whole = inverse_curvature(solver, model.copies(1), examples("mlp"), nothing, 0.1, vectors)
    original = models.influence.conjugate_gradients

    def counted(product: Any, b: Tensor, *settings: Any) -> Any:
        seen.append(len(b))
        return original(product, b, *settings)

    monkeypatch.setattr(models.influence, "conjugate_gradients", counted)
    size = len(model.flat()) if layers == "all" else sum(model.moving[name].numel() for name in list(model.moving)[-2:])
    monkeypatch.setattr(models.passes, "ACTIVATIONS", 3 * size)
    parts = inverse_curvature(solver, model.copies(1), examples("mlp"), nothing, 0.1, vectors)
    assert seen == [3, 3, 1]
    assert (parts.x - whole.x).abs().max() < 1e-9
    assert len(parts.residual) == 7


@pytest.mark.parametrize("method", ["cg", "dense"])
def test_hessian_on_request(method: Any) -> None:
    """Damped beyond its most negative eigenvalue; with less damping the solver refuses."""
    model = victim("mlp")
    vectors, deleted = directions(model, 2), deletions(2)
    solver = Solver(curvature="hessian", method=method, damping=5.0, tolerance=1e-12)
    solution = inverse_curvature(solver, stack([model] * 2), examples("mlp"), deleted, 0.0, vectors, base=model)
    expected = exact("mlp", [model] * 2, deleted, 5.0, vectors, hessian)
    assert (solution.x - expected).abs().max() < 1e-9
    weak = Solver(curvature="hessian", method=method, damping=0.0, tolerance=1e-12)
    with pytest.raises(
        UserError, match=r"smallest eigenvalue of the curvature is about -\d.* raise the solver's damping"
    ):
        inverse_curvature(weak, stack([model] * 2), examples("mlp"), deleted, 0.0, vectors, base=model)


def test_factor_is_made_once_per_victim_and_dies_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = models.influence.cholesky_preconditioner

    def counted(matrix: Tensor) -> Any:
        made.append(len(matrix))
        return original(matrix)

    monkeypatch.setattr(models.influence, "cholesky_preconditioner", counted)
    data, base, other = examples("mlp"), victim("mlp"), victim("mlp", 1)
    vectors = directions(base, 2)
    solve = partial(inverse_curvature, DENSE, stack([base] * 2), data)
    first = solve(deletions(2), 0.1, vectors, base)
    again = solve(deletions(2).flip(0), 0.1, vectors, base)
    assert made == [len(base.flat())]
    assert not torch.equal(first.x, again.x)
    solve(deletions(2), 0.2, vectors, base)  # another shift
    solve(deletions(2), 0.1, vectors, other)
    assert len(made) == 3
    solve(deletions(2), 0.1, vectors, base)
    assert len(made) == 3

    known, gone = len(models.influence._factors), weakref.ref(base)
    del solve, base
    gc.collect()
    assert gone() is None
    assert len(models.influence._factors) == known - 1


def test_factor_saves_products() -> None:
    data, base = examples("mlp"), victim("mlp")
    deleted, vectors = deletions(2), directions(base, 2)
    plain, factored = (
        inverse_curvature(solver, stack([base] * 2), data, deleted, 1e-3, vectors, base)
        for solver in (Solver(tolerance=1e-8), Solver(method="dense", tolerance=1e-8))
    )
    assert factored.iterations < plain.iterations / 2
    assert (factored.residual < 1.01e-8).all()


def test_large_models_need_conjugate_gradients() -> None:
    build = partial(MLP, shape=(4,), classes=3, widths=[700])
    model = Victim(*initialise(build, 0, torch.zeros(1, dtype=torch.float64)))
    vectors = directions(model, 1)
    with pytest.raises(UserError, match=r"up to 5,000 parameters; this model has 5,603: use method=cg"):
        inverse_curvature(DENSE, stack([model]), examples("mlp"), deletions(1), 0.1, vectors)
    assert inverse_curvature(CG, stack([model]), examples("mlp"), deletions(1), 0.1, vectors).residual[0] < 1.01e-12
