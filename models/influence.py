"""The one place where the inverse curvature of a model is applied: `inverse_curvature`."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.curvature import dense, gauss_newton, hessian
from models.newton import LARGEST
from models.solver import Solution, Solver, cholesky_preconditioner, conjugate_gradients
from models.victim import Ensemble, Victim

Factor = Callable[[Tensor], Tensor]
_factors: WeakKeyDictionary[Victim, dict[tuple[object, ...], Factor]] = WeakKeyDictionary()


def inverse_curvature(
    solver: Solver,
    models: Ensemble,
    examples: Examples,
    deleted: Tensor,
    weight_decay: float,
    vectors: Tensor,
    base: Victim | None = None,
) -> Solution:
    """(H_w(theta_j) + damping I)^{-1} v_j for every model j, with row j of `deleted` (m, n) and of `vectors` (m, p).

    H_w is the curvature of F(.; w), weight decay included. `base` is the model whose factor preconditions the systems
    with `method: dense`; the factor is computed once per victim and kept as long as the victim lives.
    """
    make = hessian if solver.curvature == "hessian" else gauss_newton
    shift = weight_decay + solver.damping
    preconditioner = None
    if solver.method == "dense" or (solver.method == "auto" and vectors.shape[1] <= LARGEST):
        anchor = base if base is not None else models[0]
        key = (solver.curvature, shift, id(examples.x), len(examples))
        known = _factors.setdefault(anchor, {})
        if key not in known:
            known[key] = _factor(solver, anchor, examples, shift)
        preconditioner = known[key]
    product = make(models, examples, deleted, shift)
    return conjugate_gradients(product, vectors, solver.tolerance, solver.max_iterations, preconditioner)


def _factor(solver: Solver, victim: Victim, examples: Examples, shift: float) -> Factor:
    size, like = victim.flat().numel(), victim.flat()
    if size > LARGEST:
        raise UserError(
            f"solver.method=dense is for up to {LARGEST:,} parameters; this model has {size:,}: use method=cg."
        )
    make = hessian if solver.curvature == "hessian" else gauss_newton
    zero = torch.zeros(1, size, dtype=like.dtype, device=like.device)

    def product(rows: Tensor) -> Tensor:
        kept = torch.zeros(len(rows), len(examples), dtype=like.dtype, device=like.device)
        return make(victim.moved(zero.expand(len(rows), -1)), examples, kept, shift)(rows)

    return cholesky_preconditioner(dense(product, size, like))
