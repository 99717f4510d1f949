"""The one place where the inverse curvature of a model is applied: `inverse_curvature`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from data.examples import Examples
from data.randomness import generator
from models.curvature import CURVATURES, HELD, LARGEST, Product
from models.direct import curvature_matrix, exact, refuse_negative, woodbury_solution
from models.lanczos import BASIS, Spectrum, extreme_eigenvalues
from models.last_layer import from_last_layer, only_last_layer, to_last_layer
from models.lissa import lissa, stochastic_lissa
from models.passes import models_at_once
from models.preconditioner import make_preconditioner
from models.solver import Solution, Solver, cholesky_preconditioner, conjugate_gradients
from models.victim import ModelStack, Victim

Factor = Callable[[Tensor], Tensor]
MARGIN = 1.05  # LiSSA's scale over the estimated largest eigenvalue, which is an estimate from below
_factors: WeakKeyDictionary[Victim, dict[tuple[object, ...], Factor]] = WeakKeyDictionary()


def inverse_curvature(
    solver: Solver,
    models: ModelStack,
    examples: Examples,
    forget_weights: Tensor,
    weight_decay: float,
    vectors: Tensor,
    base: Victim | None = None,
) -> Solution:
    """(H_w(theta_j) + damping I)^{-1} v_j for every row j of `vectors` (m, p) and of `forget_weights` (m, n).

    There are m models, or one that serves all rows. H_w is the curvature of F(.; w), weight decay included; with
    `layers: last` its block of the last layer, and x is zero elsewhere. `base` is the model whose factor preconditions
    the systems; the factor is computed once per victim and kept as long as the victim lives. Of a pruned model x is
    zero where it is pruned, and solves the system of what is left. Raises UserError where the curvature is not positive
    definite, where iterates grow, and where the tolerance is not reached.
    """
    anchor = base if base is not None else models[0]
    vectors = models.pruned(vectors)
    if solver.layers == "all":
        solution = _solve(solver, models, examples, forget_weights, weight_decay, vectors, anchor)
    else:
        like = {name: value[0] for name, value in models.moving.items()}
        part, rows = only_last_layer(models), to_last_layer(vectors, like)
        solution = _solve(solver, part, examples, forget_weights, weight_decay, rows, anchor)
        solution = replace(solution, x=from_last_layer(solution.x, like))
    return replace(solution, x=models.pruned(solution.x))  # a preconditioner need not know of the mask


def _solve(
    solver: Solver,
    models: ModelStack,
    examples: Examples,
    forget_weights: Tensor,
    weight_decay: float,
    b: Tensor,
    anchor: Victim,
) -> Solution:
    size = _rows_at_once(solver, models)
    if len(b) > size:  # iterations hold several vectors for every row, and the basis of the spectrum is many
        parts = [
            _solve(
                solver,
                models if len(models) == 1 else models.select(rows),
                examples,
                forget_weights if len(forget_weights) == 1 else forget_weights[rows],
                weight_decay,
                b[rows],
                anchor,
            )
            for rows in (slice(first, first + size) for first in range(0, len(b), size))
        ]
        x, residual = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "residual"))
        return Solution(x, residual, max(p.iterations for p in parts), max(p.products for p in parts))
    shift = weight_decay + solver.damping
    if solver.method == "woodbury":
        return woodbury_solution(models, examples, forget_weights, shift, b, solver.rank, solver.tolerance)
    make = CURVATURES[solver.curvature]
    if solver.method == "exact":
        return exact(make, models, examples, forget_weights, shift, b, solver.tolerance)
    product = make(models, examples, forget_weights, shift, hold=True)
    spectrum = extreme_eigenvalues(product, b) if _needs_spectrum(solver) else None
    if spectrum is not None and solver.curvature == "hessian" and bool((spectrum.lowest <= 0).any()):
        worst = spectrum.lowest.argmin()
        refuse_negative(float(spectrum.lowest[worst]), shift, float(spectrum.error[worst]))
    if solver.method == "lissa":
        return _lissa(solver, product, models, examples, forget_weights, shift, b, spectrum)
    precondition = _factor(solver, anchor, examples, shift, b.shape[1])
    return conjugate_gradients(product, b, solver.tolerance, solver.max_iterations, precondition)


def _rows_at_once(solver: Solver, models: ModelStack) -> int:
    """How many rows to solve for at once: as many as models are held, each with several vectors of its size.

    The basis of a spectrum may take as much as a product may hold.
    """
    if solver.method in ("woodbury", "exact"):  # what these hold does not grow with what is asked for
        return 2**62
    return max(1, HELD * models_at_once(models) // BASIS) if _needs_spectrum(solver) else models_at_once(models)


def _needs_spectrum(solver: Solver) -> bool:
    return solver.curvature == "hessian" or (solver.method == "lissa" and solver.scale is None)


def _lissa(
    solver: Solver,
    product: Product,
    models: ModelStack,
    examples: Examples,
    forget_weights: Tensor,
    shift: float,
    b: Tensor,
    spectrum: Spectrum | None,
) -> Solution:
    scale = solver.scale or (MARGIN * float(spectrum.highest.max()) if spectrum is not None else 1.0)
    if solver.batch_size is None:
        solution = lissa(product, b, scale, solver.tolerance, solver.max_iterations)
        return replace(solution, products=solution.products + (spectrum.products if spectrum is not None else 0))
    rng, size = generator(0, "lissa"), min(solver.batch_size, len(examples))

    def sample() -> Product:
        batch = torch.randint(len(examples), (size,), generator=rng).to(examples.y.device)
        return CURVATURES[solver.curvature](models, examples[batch], forget_weights[:, batch], shift)

    return stochastic_lissa(product, sample, b, scale, solver.tolerance, solver.max_iterations, solver.repetitions)


def _factor(solver: Solver, anchor: Victim, examples: Examples, shift: float, size: int) -> Factor | None:
    """The preconditioner that the solver asks for, from what is known of the victim."""
    with_matrix = solver.method == "dense" or (solver.method == "auto" and size <= LARGEST)
    if not with_matrix and solver.preconditioner == "none":
        return None
    kind: tuple[object, ...] = ("dense", solver.curvature) if with_matrix else (solver.preconditioner, solver.rank)
    key = (*kind, solver.layers, shift, id(examples.x), len(examples))
    known = _factors.setdefault(anchor, {})
    if key not in known:
        victim = only_last_layer(anchor) if solver.layers == "last" else anchor
        if with_matrix:
            nothing = anchor.flat().new_zeros(len(examples))
            known[key] = cholesky_preconditioner(
                curvature_matrix(CURVATURES[solver.curvature], victim, examples, nothing, shift)
            )
        else:
            known[key] = make_preconditioner(solver.preconditioner, victim, examples, shift, solver.rank)
    return known[key]
