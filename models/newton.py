"""Damped Newton to the stationary point of the training objective, for convex models: the exact reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacrev, vmap

from data.errors import UserError
from data.examples import Examples
from models.victim import Ensemble, Tensors, forward, unflatten

LARGEST = 5000  # parameters; the dense Hessian of one model then takes 200 MB in float64
ENTRIES = 2**24  # numbers in the Jacobians of the models that are treated at once


def minimise(
    start: Ensemble, records: Examples, keep: Tensor, weight_decay: float, tolerance: float, iterations: int = 100
) -> Tensors:
    """Parameters (m, ...) that minimise F(theta; w) for every row of `keep` = 1 - w, of shape (m, n).

    Newton steps with a dense Gauss-Newton matrix (the Hessian where logits are linear in the parameters) and halving
    line search, until the norm of every model's gradient is at most `tolerance`, or at the level of rounding. Raises
    UserError for models with more than 5,000 parameters, and where the objective is not convex enough to converge.
    """
    module, like = start.module, {name: value[0] for name, value in start.parameters.items()}
    buffers = {name: value[0] for name, value in start.buffers.items()}
    theta = torch.cat([value.reshape(len(start), -1) for value in start.parameters.values()], dim=1)
    if theta.shape[1] > LARGEST:
        raise UserError(
            f"training.optimizer=newton is for up to {LARGEST:,} parameters; this model has {theta.shape[1]:,}."
        )

    def objective(flat: Tensor, kept: Tensor) -> Tensor:
        losses = F.cross_entropy(
            forward(module, unflatten(flat, like), buffers, records.x), records.y, reduction="none"
        )
        return (kept * losses).sum() / len(records) + weight_decay / 2 * flat.dot(flat)

    def curvature(flat: Tensor, kept: Tensor) -> Tensor:
        def logits(x: Tensor) -> Tensor:
            return jacrev(lambda values: forward(module, unflatten(values, like), buffers, x[None])[0])(flat)

        jacobian = vmap(logits)(records.x)  # (n, K, p)
        p = (
            forward(module, unflatten(flat, like), buffers, records.x).softmax(-1)
            * (kept / len(records))[:, None].sqrt()
        )
        mass = p.sum(1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)
        weighted = (p * mass)[:, :, None] * jacobian
        mean = torch.einsum("nk,nkp->np", p, jacobian)
        return (
            torch.einsum("nkp,nkq->pq", weighted, jacobian)
            - mean.T @ mean
            + weight_decay * torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
        )

    entries = (
        len(records) * theta.shape[1] * forward(module, unflatten(theta[0], like), buffers, records.x[:1]).shape[1]
    )
    value, slope = vmap(objective), vmap(grad(objective))
    curvatures = vmap(curvature, chunk_size=max(1, ENTRIES // entries))
    floor = 32 * torch.finfo(theta.dtype).eps
    for _ in range(iterations):
        gradient = slope(theta, keep)
        norms = gradient.norm(dim=1)
        if (norms <= max(tolerance, floor)).all():
            return unflatten(theta, like)
        step = torch.linalg.solve(curvatures(theta, keep), gradient)
        before, scale = value(theta, keep), torch.ones_like(norms)
        for _ in range(30):
            worse = value(theta - scale[:, None] * step, keep) > before + floor * before.abs()
            if not worse.any():
                break
            scale = torch.where(worse, scale / 2, scale)
        theta = theta - scale[:, None] * step
    raise UserError(
        f"Newton's method did not converge (gradient norm {norms.max():.1e} after {iterations} steps); "
        "use training.optimizer=sgd for models that are not convex, or raise training.weight_decay."
    )
