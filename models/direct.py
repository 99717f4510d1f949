"""Inverse curvature without iterations: a dense factor of every system, and Woodbury's identity for the Fisher."""

from __future__ import annotations

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.curvature import LARGEST, Curvature, dense
from models.gradients import gradient_matrix
from models.preconditioner import check_rank
from models.solver import Solution, relative
from models.victim import ModelStack, Victim
from models.woodbury import woodbury


def curvature_matrix(
    make: Curvature, victim: Victim, examples: Examples, forget_weights: Tensor, shift: float
) -> Tensor:
    """The matrix (p, p) of the curvature at one model with one row of `forget_weights` (n,).

    Raises UserError for more than 5,000 parameters.
    """
    like = victim.flat()
    if like.numel() > LARGEST:
        raise UserError(
            f"A dense curvature is for up to {LARGEST:,} parameters; this model has {like.numel():,}: use method=cg."
        )
    return dense(make(victim.copies(1), examples, forget_weights[None], shift, hold=True), like.numel(), like)


def exact(
    make: Curvature,
    models: ModelStack,
    examples: Examples,
    forget_weights: Tensor,
    shift: float,
    b: Tensor,
    tolerance: float,
) -> Solution:
    """A_j^{-1} b_j for every row j of `b` (m, p), each by the Cholesky factor of its own dense matrix.

    Raises UserError where a matrix is not positive definite (with its smallest eigenvalue), where rounding leaves a
    relative residual above `tolerance`, and for more than 5,000 parameters.
    """
    rows: list[Tensor] = []
    factor = b.new_empty(0)
    for j, right in enumerate(b):
        model, row = models[min(j, len(models) - 1)], forget_weights[min(j, len(forget_weights) - 1)]
        if j == 0 or len(models) > 1 or (len(forget_weights) > 1 and not torch.equal(row, forget_weights[j - 1])):
            matrix = curvature_matrix(make, model, examples, row, shift)
            factor, info = torch.linalg.cholesky_ex(matrix)
            if int(info) != 0:
                refuse_negative(float(torch.linalg.eigvalsh(matrix)[0]), shift)
        rows.append(torch.cholesky_solve(right[:, None], factor)[:, 0])
    x = torch.stack(rows)
    return _checked(x, b - make(models, examples, forget_weights, shift)(x), b, tolerance, products=1)


def woodbury_solution(
    models: ModelStack, examples: Examples, forget_weights: Tensor, shift: float, b: Tensor, rank: int, tolerance: float
) -> Solution:
    """((1/m) sum_S (1 - w_ji) g_i g_i' + shift I)^{-1} b_j, S = m = `rank` examples drawn at random (all, if fewer).

    That is the empirical Fisher of the retained objective, estimated on S. Models with equal parameters share their
    gradients. The residual is that of the matrix of S. Raises UserError where it stays above `tolerance`.
    """
    check_rank(min(rank, len(examples)), b.shape[1])
    drawn = torch.randperm(len(examples), generator=generator(0, "woodbury"))[:rank].sort().values.to(examples.y.device)
    part, weights = examples[drawn], (1 - forget_weights[:, drawn]) / len(drawn)
    same = all(bool((value == value[:1]).all()) for value in models.moving.values())
    groups = [slice(0, len(b))] if same else [slice(j, j + 1) for j in range(len(b))]
    pieces = [_woodbury(models[rows.start], part, weights[rows], shift, b[rows]) for rows in groups]
    x, left = (torch.cat([piece[k] for piece in pieces]) for k in (0, 1))
    return _checked(x, left, b, tolerance, products=0)


def _woodbury(victim: Victim, part: Examples, weights: Tensor, shift: float, b: Tensor) -> tuple[Tensor, Tensor]:
    """Solution and residual of the rows of one model."""
    gradients = gradient_matrix(victim, part)
    x = woodbury(gradients, weights, shift, b)
    return x, b - shift * x - (weights * (x @ gradients.T)) @ gradients


def refuse_negative(lowest: float, shift: float, error: float = 0.0) -> None:
    """Raise UserError for a curvature whose smallest eigenvalue, `shift` included, is about `lowest` <= 0."""
    raise UserError(
        f"The smallest eigenvalue of the curvature is about {lowest - shift:.2g}, and weight decay plus damping is "
        f"only {shift:.2g}; raise the solver's damping by {1.1 * (error - lowest):.2g} or use curvature=gauss_newton."
    )


def _checked(x: Tensor, left: Tensor, b: Tensor, tolerance: float, products: int) -> Solution:
    residual = relative(left, b)
    if not bool((residual <= tolerance).all()):
        raise UserError(
            f"Rounding leaves a relative residual of {residual.max():.1e}, not {tolerance:g}; "
            "raise the solver's damping or tolerance."
        )
    return Solution(x, residual, 0, products)
