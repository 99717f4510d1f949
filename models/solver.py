"""Solve (H + damping I) x = b for many b at once, by conjugate gradients with an optional dense factor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Solver:
    """Which curvature is inverted, and how precisely.

    `curvature`: gauss_newton (positive semi-definite) or hessian (may have negative directions: then the solver stops
    with a sentence). `damping` is added to the diagonal, beside weight decay. `tolerance` bounds the relative residual
    ||b - A x|| / ||b|| of every system. `method`: cg, or dense: conjugate gradients preconditioned by the Cholesky
    factor of the curvature with nothing deleted, for up to 5,000 parameters and many systems that differ a little; auto
    takes dense where it fits.
    """

    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton"
    method: Literal["auto", "cg", "dense"] = "cg"
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    max_iterations: Annotated[int, Field(ge=1)] = 1000


@plain_dataclass(frozen=True)
class Solution:
    """`x` (m, p), the reached relative residual (m,) of every system, and the number of products with the matrix."""

    x: Tensor
    residual: Tensor
    iterations: int


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    tolerance: float,
    max_iterations: int,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Solution:
    """Solve A_j x_j = b_j for every row j of `b` (m, p); `product` applies A_j to row j of an (m, p) matrix.

    Stops when every relative residual is at most `tolerance`; the true residual is computed at the end and reported.
    Raises UserError on negative curvature, and when the tolerance is not reached in `max_iterations`.
    """
    apply = precondition or (lambda vector: vector)
    x, residual = torch.zeros_like(b), b.clone()
    size = b.norm(dim=1).clamp_min(torch.finfo(b.dtype).tiny)
    z = apply(residual)
    direction, rz = z, (residual * z).sum(1)
    iterations = 0
    while (active := ~(residual.norm(dim=1) <= tolerance * size)).any():  # `not <=`: NaN is active too
        if iterations == max_iterations:
            raise UserError(
                f"Conjugate gradients reached a relative residual of {(residual.norm(dim=1) / size).max():.1e}, "
                f"not {tolerance:g}, in {max_iterations} iterations; "
                "raise the solver's damping, tolerance or max_iterations."
            )
        curved = product(direction)
        iterations += 1
        curvature = (direction * curved).sum(1)
        if not (curvature[active] > 0).all():
            raise UserError(
                "The curvature is not a positive number along a search direction, so there is no stable solution; "
                "raise the solver's damping or use curvature=gauss_newton."
            )
        step = torch.where(active, rz / curvature, 0.0)[:, None]
        x, residual = x + step * direction, residual - step * curved
        z = apply(residual)
        rz_next = (residual * z).sum(1)
        direction = z + torch.where(active, rz_next / rz, 0.0)[:, None] * direction
        rz = rz_next
    true = (b - product(x)).norm(dim=1) / size
    return Solution(x, true, iterations)


def cholesky_preconditioner(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> matrix^{-1} v, row by row, from one Cholesky factor. Raises UserError where the matrix is not positive."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0:
        raise UserError(
            "The curvature is not positive definite; raise the solver's damping or use curvature=gauss_newton."
        )
    return lambda vectors: torch.cholesky_solve(vectors.T, factor).T
