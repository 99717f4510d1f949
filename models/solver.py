"""What is asked of an inverse curvature, `Solver`, and conjugate gradients for many systems (H + damping I) x = b."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most
from data.errors import UserError
from models.progress import Tick, progress


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Solver:
    """Which curvature is inverted, how, and how precisely.

    `curvature`: gauss_newton (positive semi-definite), hessian (may have negative directions: damping that does not
    lift the smallest eigenvalue above zero is refused, which takes up to 40 products to see) or fisher (the empirical
    one: the labels are the given ones).
    `layers`: all, or last: only the last layer's parameters move. `damping` is added to the diagonal, beside weight
    decay. `tolerance` bounds the relative residual ||b - A x|| / ||b|| of every system, for every method.

    `method`:
    cg: conjugate gradients, with a `preconditioner`: none, diagonal, nystroem (of `rank`) or subsample
    (`models.preconditioner`);
    dense: conjugate gradients preconditioned by the Cholesky factor of the curvature with nothing deleted, for up to
    5,000 parameters and many systems that differ a little;
    auto: dense where it fits, else cg;
    exact: a Cholesky factor of every system, for up to 5,000 parameters;
    lissa: a Neumann series with `scale` (default: the estimated largest eigenvalue), or `batch_size` random examples in
    each step and the mean of `repetitions` runs, which needs a scale (`models.lissa`);
    woodbury: curvature=fisher of the gradients of `rank` examples drawn at random, without iterations.
    """

    curvature: Literal["gauss_newton", "hessian", "fisher"] = "gauss_newton"
    method: Literal["auto", "cg", "dense", "exact", "lissa", "woodbury"] = "cg"
    layers: Literal["all", "last"] = "all"
    preconditioner: Literal["none", "diagonal", "nystroem", "subsample"] = "none"
    rank: Annotated[int, Field(ge=1)] = 100
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    max_iterations: Annotated[int, Field(ge=1), at_most(10_000_000, "each is a pass over the records")] = 1000
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    repetitions: Annotated[int, Field(ge=1), at_most(1_000_000, "each is a run of its own")] = 1

    def __post_init__(self) -> None:
        if self.method == "woodbury" and self.curvature != "fisher":
            raise UserError("solver.method=woodbury inverts the empirical Fisher; set solver.curvature=fisher.")
        if self.preconditioner != "none" and self.method not in ("cg", "auto"):
            raise UserError(f"solver.method={self.method} takes no preconditioner; use solver.method=cg.")
        if self.method != "lissa" and (self.scale, self.batch_size, self.repetitions) != (None, None, 1):
            raise UserError("solver.scale, batch_size and repetitions belong to solver.method=lissa.")
        if self.batch_size is not None and self.scale is None:
            raise UserError("solver.batch_size needs solver.scale, at least the largest eigenvalue of any batch.")
        if self.batch_size is None and self.repetitions > 1:
            raise UserError("Repetitions of LiSSA with all examples are equal; set solver.batch_size.")


@plain_dataclass(frozen=True)
class Solution:
    """`x` (m, p), the reached relative residual (m,) of every system, and what it took.

    `iterations` are those of the method, and `products` those with the whole matrix, for all m systems at once; what
    preconditioners do with a part of the examples is not counted.
    """

    x: Tensor
    residual: Tensor
    iterations: int
    products: int


def relative(residual: Tensor, b: Tensor) -> Tensor:
    """||residual|| / ||b|| of every row, shape (m,); zero where both are."""
    return residual.norm(dim=1) / b.norm(dim=1).clamp_min(torch.finfo(b.dtype).tiny)


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    tolerance: float,
    max_iterations: int,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Solution:
    """Solve A_j x_j = b_j for every row j of `b` (m, p); `product` applies A_j to row j of an (m, p) matrix.

    Stops when every relative residual is at most `tolerance`; the true residual is computed at the end and reported.
    Directions are made conjugate by Polak and Ribiere's formula, which lets `precondition` be an inner iteration, that
    is, a map that is linear only nearly (flexible conjugate gradients: Notay, SIAM J. Sci. Comput. 22, 2000).
    Raises UserError on negative curvature, and when the tolerance is not reached in `max_iterations`.
    """
    with progress("solving for the inverse curvature", 1.0) as tick:
        return _conjugate_gradients(product, b, tolerance, max_iterations, precondition, tick)


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    tolerance: float,
    max_iterations: int,
    precondition: Callable[[Tensor], Tensor] | None,
    tick: Tick,
) -> Solution:
    apply = precondition or (lambda vector: vector)
    x, residual, direction, change, rz = torch.zeros_like(b), b, b, torch.zeros_like(b), b.new_ones(len(b))
    size = b.norm(dim=1).clamp_min(torch.finfo(b.dtype).tiny)
    iterations, shown = 0, 0.0
    while (active := ~(residual.norm(dim=1) <= tolerance * size)).any():  # `not <=`: NaN is active too
        if iterations == max_iterations:
            raise UserError(
                f"Conjugate gradients reached a relative residual of {(residual.norm(dim=1) / size).max():.1e}, "
                f"not {tolerance:g}, in {max_iterations} iterations; "
                "raise the solver's damping, tolerance or max_iterations."
            )
        z = apply(residual)
        direction = z - torch.where(active, (change * z).sum(1) / rz, 0.0)[:, None] * direction  # at first z alone
        rz = (residual * z).sum(1)
        curved = product(direction)
        iterations += 1
        curvature = (direction * curved).sum(1)
        if not (curvature[active] > 0).all():
            raise UserError(
                "The curvature is not a positive number along a search direction, so there is no stable solution; "
                "raise the solver's damping or use curvature=gauss_newton."
            )
        step = torch.where(active, rz / curvature, 0.0)[:, None]
        x, change = x + step * direction, step * curved
        residual = residual - change
        share = min(1.0, math.log(max(float((residual.norm(dim=1) / size).max()), tolerance)) / math.log(tolerance))
        if share > shown:  # digits won, of those asked for
            tick(share - shown)
            shown = share
    return Solution(x, relative(b - product(x), b), iterations, iterations + 1)


def cholesky_preconditioner(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> matrix^{-1} v, row by row, from one Cholesky factor. Raises UserError where the matrix is not positive."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0:
        raise UserError(
            "The curvature is not positive definite; raise the solver's damping or use curvature=gauss_newton."
        )
    return lambda vectors: torch.cholesky_solve(vectors.T, factor).T
