"""Solve with an empirical Fisher matrix of m per-example gradients, exactly and without a p x p matrix (Woodbury)."""

from __future__ import annotations

import torch
from torch import Tensor

from data.errors import UserError

ENTRIES = 2**24  # numbers in the m x m systems that are factored at once


@torch.no_grad()
def woodbury(gradients: Tensor, weights: Tensor, damping: float, vectors: Tensor) -> Tensor:
    """x_j = (d I + sum_i c_ji g_i g_i')^{-1} v_j for every row j, shape (r, p).

    `gradients` (m, p) holds the g_i, `weights` (r, m) the c_ji, which must not be negative, `damping` is d and
    `vectors` (r, p) holds the v_j. With S_j = diag(sqrt(c_j)) it is
    x_j = (1/d) [v_j - G' S_j (d I + S_j G G' S_j)^{-1} S_j G v_j]: the kernel G G' is computed once for all rows, and
    each row costs one Cholesky factor of an m x m matrix. All gradients take part: the recursion of official WoodFisher
    code never refreshes its helper vector, so that its correction has rank one.

    Raises UserError for a damping that is not positive, or too small for the precision of the gradients.
    """
    if not damping > 0:
        raise UserError(f"The damping of a Woodbury solve must be positive, got {damping:g}; raise the damping.")
    kernel = gradients @ gradients.T
    rows = max(1, ENTRIES // max(1, kernel.numel()))
    parts = zip(weights.split(rows), vectors.split(rows), strict=True)
    return torch.cat([_solve(gradients, kernel, some, damping, right) for some, right in parts])


def _solve(gradients: Tensor, kernel: Tensor, weights: Tensor, damping: float, vectors: Tensor) -> Tensor:
    roots = weights.sqrt()
    systems = roots[:, :, None] * kernel * roots[:, None, :]
    systems.diagonal(dim1=-2, dim2=-1).add_(damping)
    factors, info = torch.linalg.cholesky_ex(systems)
    if bool((info != 0).any()):
        raise UserError(
            f"A damping of {damping:g} is lost in the rounding of {vectors.dtype} gradients; raise the damping."
        )

    def apply(right: Tensor) -> Tensor:
        seen = (roots * (right @ gradients.T))[:, :, None]
        return (right - (roots * torch.cholesky_solve(seen, factors)[:, :, 0]) @ gradients) / damping

    x = apply(vectors)
    # The bracket cancels where the matrix is far above the damping; one step of refinement makes up for it in float32.
    return x + apply(vectors - damping * x - (weights * (x @ gradients.T)) @ gradients)
