"""Newton's method to the stationary point of the training objective, for convex models: the exact reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from data.errors import UserError
from data.examples import Examples
from models.curvature import LARGEST, gauss_newton
from models.direct import curvature_matrix
from models.solver import cholesky_preconditioner, conjugate_gradients
from models.victim import ModelStack, Tensors, Victim, forward, unflatten

TOLERANCE, STEPS = 1e-4, 50  # relative residual of every step, and how many conjugate directions it may take


def minimise(
    start: ModelStack,
    records: Examples,
    retain_weights: Tensor,
    weight_decay: float,
    tolerance: float,
    iterations: int = 100,
) -> Tensors:
    """Parameters (m, ...) that minimise F(theta; w) for every row of `retain_weights` = 1 - w, of shape (m, n).

    Newton steps with the Gauss-Newton matrix (the Hessian where logits are linear in the parameters) and halving line
    search, until the norm of every model's gradient is at most `tolerance`, or at the level of rounding. Raises
    UserError for models with more than 5,000 parameters, and where that is not reached.
    """
    module, like = start.module, {name: value[0] for name, value in start.moving.items()}
    theta = start.flat()
    if theta.shape[1] > LARGEST:
        raise UserError(
            f"training.optimizer=newton is for up to {LARGEST:,} parameters; this model has {theta.shape[1]:,}."
        )

    def objective(flat: Tensor, kept: Tensor, buffers: Tensors) -> Tensor:
        losses = F.cross_entropy(
            forward(module, unflatten(flat, like), buffers, records.x), records.y, reduction="none"
        )
        return (kept * losses).sum() / len(records) + weight_decay / 2 * flat.dot(flat)

    value, slope = vmap(objective), vmap(grad(objective))
    floor = 32 * torch.finfo(theta.dtype).eps
    for _ in range(iterations):
        gradient = start.pruned(slope(theta, retain_weights, start.buffers))
        norms = gradient.norm(dim=1)
        if (norms <= max(tolerance, floor)).all():
            return unflatten(theta, like)
        if not norms.isfinite().all():
            break
        models = ModelStack(module, unflatten(theta, like), start.buffers, mask=start.mask)
        step = models.pruned(_step(models, records, retain_weights, weight_decay, gradient))
        before, scale = value(theta, retain_weights, start.buffers), torch.ones_like(norms)
        for _ in range(30):
            worse = value(theta - scale[:, None] * step, retain_weights, start.buffers) > before + floor * before.abs()
            if not worse.any():
                break
            scale = torch.where(worse, scale / 2, scale)
        theta = theta - scale[:, None] * step
    raise UserError(
        f"Newton's method did not converge (gradient norm {norms.max():.1e}); "
        "raise training.weight_decay, or use training.optimizer=sgd for models that are not convex."
    )


def _step(
    models: ModelStack, records: Examples, retain_weights: Tensor, weight_decay: float, gradient: Tensor
) -> Tensor:
    """The curvature's inverse times the gradient for every model, (m, p).

    Mostly the models differ by a few weights, and the dense curvature at their mean preconditions all of them; where
    they differ by more, or rounding hides the smallest curvature, every model gets its own.
    """
    first = models[0]
    mean = Victim(first.module, unflatten(models.flat().mean(0), first.moving), first.buffers)
    matrix = curvature_matrix(gauss_newton, mean, records, 1 - retain_weights.mean(0), weight_decay)
    matrix.diagonal().add_(8 * torch.finfo(matrix.dtype).eps * matrix.trace())  # or rounding may make it indefinite
    try:
        factor = cholesky_preconditioner(matrix)
        product = gauss_newton(models, records, 1 - retain_weights, weight_decay, hold=True)
        return conjugate_gradients(product, gradient, TOLERANCE, STEPS, factor).x
    except UserError:
        own = (
            curvature_matrix(gauss_newton, models[j], records, 1 - kept, weight_decay)
            for j, kept in enumerate(retain_weights)
        )
        return torch.stack([torch.linalg.solve_ex(matrix, b)[0] for matrix, b in zip(own, gradient, strict=True)])
