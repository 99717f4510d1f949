"""LiSSA: the inverse curvature as a truncated Neumann series, with all examples or with a random batch in each step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from data.errors import UserError
from models.solver import Solution, relative

CHECK = 50  # steps between two looks at the true residual, where the steps are random


def lissa(
    product: Callable[[Tensor], Tensor], b: Tensor, scale: float, tolerance: float, max_iterations: int
) -> Solution:
    """x_j with A_j x_j = b_j for every row j of `b` (m, p), by u <- b + u - A u / scale from u = b, and x = u / scale.

    What a step changes in u is the residual b - A x before it, so the stopping rule costs nothing. With A = H + damping
    and scale >= the largest eigenvalue, 20 scale / (damping + smallest eigenvalue of H) steps leave an error of
    exp(-20). (Warnecke et al. damp u itself, which amounts to damping x scale here.)
    Source: Agarwal et al., JMLR 18, 2017.

    Raises UserError as soon as the steps grow (they then grow for ever), and when `tolerance` is not reached.
    """
    u, before = b.clone(), b.norm(dim=1)
    floor = 1e3 * torch.finfo(b.dtype).eps * before
    for done in range(max_iterations):
        residual = b - product(u / scale)
        size = residual.norm(dim=1)
        if bool((size <= tolerance * b.norm(dim=1)).all()):
            return Solution(u / scale, relative(residual, b), done, done + 1)
        # The norms of powers of one symmetric matrix times a vector are log-convex: once they grow, they always do.
        if not bool((size <= before.clamp_min(floor) * (1 + 1e-4)).all()):
            raise UserError(_growing(scale))
        u, before = u + residual, size
    raise UserError(_unfinished(relative(residual, b), tolerance, max_iterations))


def stochastic_lissa(
    product: Callable[[Tensor], Tensor],
    sample: Callable[[], Callable[[Tensor], Tensor]],
    b: Tensor,
    scale: float,
    tolerance: float,
    max_iterations: int,
    repetitions: int = 1,
) -> Solution:
    """The same with the product of a fresh random batch in each step: `sample()` draws one, for all rows together.

    x is the mean over `repetitions` independent runs, which go side by side. The stopping rule is that of every method,
    the relative residual of x by the full `product`; it is looked at every 50 steps. The residual of random steps does
    not fall below a floor that only a larger batch, scale or number of repetitions lowers.
    Zhang et al., ICML 2024, take 10 repetitions of 1,000 steps with batches of 10 (their code).

    Raises UserError when the iterates grow, and when `tolerance` is not reached.
    """
    runs = [b.clone() for _ in range(repetitions)]
    looks = 0
    for done in range(1, max_iterations + 1):
        for k, u in enumerate(runs):
            runs[k] = b + u - sample()(u) / scale
        if done % CHECK and done < max_iterations:
            continue
        x = torch.stack(runs).mean(0) / scale
        looks += 1
        left = relative(b - product(x), b)
        if bool((left <= tolerance).all()):
            return Solution(x, left, done, looks)
        if not bool((left <= 2).all()):  # x = 0 leaves a residual of one
            raise UserError(_growing(scale))
    raise UserError(_unfinished(left, tolerance, max_iterations))


def _growing(scale: float) -> str:
    return (
        f"The iterates of LiSSA grow: solver.scale={scale:g} is too far below the largest eigenvalue of the curvature "
        "(of a batch, where batches are drawn), or there is a negative one; raise solver.scale or solver.damping."
    )


def _unfinished(left: Tensor, tolerance: float, steps: int) -> str:
    return (
        f"LiSSA reached a relative residual of {left.max():.1e}, not {tolerance:g}, in {steps} steps; raise "
        "solver.damping, solver.tolerance, solver.max_iterations or, where batches are drawn, solver.batch_size."
    )
