"""Products with the curvature of the training objective, for one model and many deletion weights at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from data.examples import Examples
from models.gradients import losses
from models.victim import Ensemble, Tensors, forward, rows_at_once, unflatten

Product = Callable[[Tensor], Tensor]  # (m, p) -> (m, p), row by row
CHUNK = 2**18  # examples x models of one product, at most


def softmax_curvature(probabilities: Tensor, direction: Tensor) -> Tensor:
    """Lambda_i u with Lambda_i = diag(p_i) - p_i p_i', the Hessian of cross-entropy in logits: (..., classes)."""
    weighted = probabilities * direction
    return weighted - probabilities * weighted.sum(-1, keepdim=True)


def gauss_newton(models: Ensemble, examples: Examples, deleted: Tensor, shift: float) -> Product:
    """v_j -> [(1/n) sum_i (1 - w_ji) J_i' Lambda_i J_i + shift I] v_j at theta_j, for every row j of `deleted` (m, n).

    J_i is the Jacobian of the logits of example i. `shift` is weight decay plus damping. The generalised Gauss-Newton
    matrix is positive semi-definite, and equals the Hessian where the logits are linear in the parameters.
    """

    def product(parameters: Tensors, buffers: Tensors, keep: Tensor, tangent: Tensors, x: Tensor) -> Tensors:
        def logits(values: Tensors) -> Tensor:
            return forward(models.module, values, buffers, x)

        outputs, back = vjp(logits, parameters)[:2]
        change = jvp(logits, (parameters,), (tangent,))[1]
        curved = softmax_curvature(outputs.softmax(-1), change)
        pulled: Tensors = back(keep[:, None] * curved)[0]
        return pulled

    return _summed(models, examples, deleted, shift, product)


def hessian(models: Ensemble, examples: Examples, deleted: Tensor, shift: float) -> Product:
    """v_j -> [grad^2 F(theta_j; w_j) with `shift` in place of weight decay] v_j: forward over reverse mode."""

    def product(parameters: Tensors, buffers: Tensors, keep: Tensor, tangent: Tensors, x: Tensor, y: Tensor) -> Tensors:
        def total(values: Tensors) -> Tensor:
            return (keep * losses(models.module, values, buffers, x, y)).sum()

        result: Tensors = jvp(grad(total), (parameters,), (tangent,))[1]
        return result

    return _summed(models, examples, deleted, shift, product, with_labels=True)


def _summed(
    models: Ensemble, examples: Examples, deleted: Tensor, shift: float, product: Callable[..., Tensors],
    with_labels: bool = False,
) -> Product:  # fmt: skip
    """Accumulate `product` over chunks of the examples; their size changes the result by rounding only."""
    m, n = deleted.shape
    like = {name: value[0] for name, value in models.parameters.items()}
    run = vmap(product, in_dims=(0, 0, 0, 0, None, None) if with_labels else (0, 0, 0, 0, None))
    rows = rows_at_once(models, examples.x, CHUNK, m)

    def apply(vectors: Tensor) -> Tensor:
        tangents, total = unflatten(vectors, like), shift * vectors
        for first in range(0, n, rows):
            part = slice(first, first + rows)
            data = (examples.x[part], examples.y[part]) if with_labels else (examples.x[part],)
            with torch.no_grad():
                pieces = run(models.parameters, models.buffers, 1 - deleted[:, part], tangents, *data)
            total = total + torch.cat([piece.reshape(m, -1) for piece in pieces.values()], dim=1) / n
        return total

    return apply


def dense(product: Callable[[Tensor], Tensor], size: int, like: Tensor, chunk: int = 64) -> Tensor:
    """The matrix (p, p) of a product that maps any number of rows (k, p) by one and the same matrix."""
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return torch.cat([product(rows) for rows in eye.split(chunk)])
