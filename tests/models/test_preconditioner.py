"""Preconditioners: what they approximate, that they are positive, and that the solution stays the same."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import models.preconditioner
from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.curvature import gauss_newton
from models.direct import curvature_matrix
from models.fisher import diagonal_fisher
from models.influence import inverse_curvature
from models.mlp import MLP
from models.preconditioner import diagonal, inner_solve, make_preconditioner, nystroem, subsample, weighty
from models.solver import Solver
from models.training import Training, train
from models.victim import Victim
from tests.models.problems import directions

SHIFT, EXAMPLES = 0.01, 600


@pytest.fixture(scope="module")
def problem() -> tuple[Victim, Examples, Tensor]:
    """A trained MLP on three clusters that overlap a little: sure about most examples, and not about a few."""
    rng = generator(0, "clusters")
    y = torch.randint(3, (EXAMPLES,), generator=rng)
    x = 3 * torch.eye(3, 6, dtype=torch.float64)[y] + torch.randn(EXAMPLES, 6, generator=rng, dtype=torch.float64)
    data = Examples(x, y)
    model = train(partial(MLP, shape=(6,), classes=3, widths=[12]), data, Training(epochs=20, lr=0.2), [0])[0]
    nothing = torch.zeros(EXAMPLES, dtype=torch.float64)
    return model, data, curvature_matrix(gauss_newton, model, data, nothing, 0.0)


def as_matrix(factor: Any, size: int) -> Tensor:
    columns: Tensor = factor(torch.eye(size, dtype=torch.float64))
    return columns


@pytest.mark.parametrize("size", [1, 30, 200, 599, 600])
def test_drawn_examples_are_few_weighty_and_unbiased(problem: Any, size: int) -> None:
    """Weights are 1 / (n q): for a sample of everything all are 1 / n, and its product is the whole matrix."""
    model, data, _ = problem
    part, weights = weighty(model, data, size)
    assert abs(len(part) - size) <= 1
    assert (weights >= 1 / EXAMPLES - 1e-12).all()
    if size == EXAMPLES:
        assert torch.equal(part.x, data.x)
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / EXAMPLES))


def test_expectation_is_the_curvature(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many offsets of the systematic draw the mean of the weighted sum is the mean over all."""
    model, data, _ = problem
    values = data.x.square().sum(1)
    seen = []
    for k in range(200):
        monkeypatch.setattr(models.preconditioner, "generator", lambda *_, k=k: generator(k, "offset"))
        part, weights = weighty(model, data, 60)
        seen.append(float((weights * part.x.square().sum(1)).sum()))
    spread = torch.tensor(seen, dtype=torch.float64)
    assert abs(spread.mean() - values.mean()) <= 4 * spread.std() / 200**0.5


def test_uncertain_examples_are_preferred(problem: Any) -> None:
    model, data, _ = problem
    doubt = 1 - model.probabilities(data.x).square().sum(1)
    part, _ = weighty(model, data, 60)
    assert (1 - model.probabilities(part.x).square().sum(1)).mean() > 2 * doubt.mean()


def test_subsample_of_everything_is_the_whole(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, matrix = problem
    monkeypatch.setattr(models.preconditioner, "SHARE", 1.0)
    v = directions(model, 3)
    found = subsample(model, data).product(0.3)(v)
    assert (found - v @ matrix - 0.3 * v).abs().max() < 1e-10
    inner = inner_solve(model, data, SHIFT)(v)
    left = v - inner @ matrix - SHIFT * inner
    assert (left.norm(dim=1) <= 0.2 * v.norm(dim=1)).all()
    exact = diagonal_fisher(model, data, torch.full((1, EXAMPLES), 1 / EXAMPLES, dtype=torch.float64))[0]
    monkeypatch.setattr(models.preconditioner, "DIAGONAL_SAMPLE", EXAMPLES)
    assert (diagonal(model, data, SHIFT)(v) - v / (exact + SHIFT)).abs().max() < 1e-9


def test_nystroem_of_full_rank_is_the_inverse(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the factor l_rank + shift, which is the shift where the matrix is singular."""
    model, data, matrix = problem
    monkeypatch.setattr(models.preconditioner, "SHARE", 1.0)
    found = as_matrix(nystroem(model, data, SHIFT, 10_000), len(matrix))
    expected = SHIFT * torch.linalg.inv(matrix + SHIFT * torch.eye(len(matrix), dtype=torch.float64))
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("rank", [1, 5, 20, 33])
def test_nystroem_is_positive_and_flattens_the_spectrum(problem: Any, rank: int) -> None:
    model, data, matrix = problem
    found = as_matrix(nystroem(model, data, SHIFT, rank), len(matrix))
    assert (found - found.T).abs().max() < 1e-10
    values = torch.linalg.eigvalsh(found)
    assert values[0] > 0
    shifted = matrix + SHIFT * torch.eye(len(matrix), dtype=torch.float64)
    root = torch.linalg.cholesky(found)
    after = torch.linalg.eigvalsh(root.T @ shifted @ root)
    if rank >= 20:
        assert after[-1] / after[0] < torch.linalg.cond(shifted) / 3


@pytest.mark.parametrize("kind", ["diagonal", "nystroem", "subsample"])
def test_the_solution_is_the_same_and_preconditioners_are_kept(problem: Any, kind: Any) -> None:
    """Two requests at once, one of which deletes much that the preconditioner still counts."""
    model, data, _ = problem
    deleted = torch.zeros(2, EXAMPLES, dtype=torch.float64)
    deleted[1, :200] = 1
    b = directions(model, 2)
    solver = Solver(damping=SHIFT, tolerance=1e-9, preconditioner=kind, rank=40)
    plain = Solver(damping=SHIFT, tolerance=1e-9)
    solution, again, without = (
        inverse_curvature(s, model.copies(2), data, deleted, 0.0, b, base=model) for s in (solver, solver, plain)
    )
    assert torch.equal(solution.x, again.x)
    assert ((solution.x - without.x).norm(dim=1) <= 1e-6 * without.x.norm(dim=1)).all()
    assert (solution.residual <= 1.01e-9).all()
    if kind != "diagonal":
        assert solution.iterations < without.iterations


def test_mistakes_are_told(problem: Any) -> None:
    model, data, _ = problem
    with pytest.raises(UserError, match=r"preconditioner=nystroem needs damping or weight decay"):
        make_preconditioner("nystroem", model, data, 0.0, 5)
    with pytest.raises(UserError, match=r"lower solver.rank to at most"):
        models.preconditioner.check_rank(100, 10**7)


def test_a_model_that_is_sure_of_everything() -> None:
    """No curvature at all: the preconditioner is a multiple of the identity, and finite."""
    build = partial(MLP, shape=(6,), classes=3, widths=[4])
    module = build().double().eval()
    parameters = {name: torch.zeros_like(value) for name, value in module.named_parameters()}
    parameters["head.bias"] = torch.tensor([1000.0, 0, 0], dtype=torch.float64)
    model = Victim(module, parameters, {})
    data = Examples(torch.ones(50, 6, dtype=torch.float64), torch.zeros(50, dtype=torch.long))
    v = directions(model, 2)
    for kind in ("diagonal", "nystroem", "subsample"):
        found = make_preconditioner(kind, model, data, 0.5, 3)(v)
        ratio = found.norm(dim=1) / v.norm(dim=1)
        assert found.isfinite().all()
        assert (found - ratio[:, None] * v).abs().max() < 1e-9
