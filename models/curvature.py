"""Products with the curvature of the training objective, for one model and many deletion weights at once.

The objective is F(theta; w) = (1/n) sum_i (1 - w_i) l_i(theta) + (lambda/2) ||theta||^2. Its conventions, for all that
differentiates it:

* Weight decay is half the squared norm of all parameters, biases and normalisation included, so that its curvature is
  lambda I everywhere. (The official code of certified unlearning sums norms that are not squared: curvature zero along
  every tensor, and not a number at a tensor of zeros.) Products take it as part of `shift`.
* Batch-norm is in eval mode: an example's loss does not depend on the other examples, and the running statistics are
  constants, neither differentiated nor updated.
* Dropout is the identity, which is its mean: masks are buffers of ones.
* Sums over examples go chunk by chunk, and the sums of chunks are added up in float64: the size of a chunk bounds the
  memory, and changes the result by rounding within a chunk only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import vmap

from data.examples import Examples
from models.gradients import losses
from models.victim import Ensemble, Tensors, forward, rows_at_once, unflatten

Product = Callable[[Tensor], Tensor]  # (m, p) -> (m, p), row by row
Curvature = Callable[[Ensemble, Examples, Tensor, float], Product]
Function = Callable[[Tensors, Tensors, Tensor, Tensor], Tensor]  # parameters, buffers, x (b, ...), y (b,) -> (b, ...)
Piece = Callable[[Tensors, Tensors, Tensor, Tensor, Tensor], Sequence[Tensor]]  # parameters, directions, 1 - w, x, y
CHUNK = 2**18  # examples x models of one product, at most
INPUTS = 2**21  # numbers in their inputs: on a processor, what fits into its cache is faster


def softmax_curvature(probabilities: Tensor, direction: Tensor) -> Tensor:
    """Lambda_i u with Lambda_i = diag(p_i) - p_i p_i', the Hessian of cross-entropy in logits: (..., classes)."""
    weighted = probabilities * direction
    return weighted - probabilities * weighted.sum(-1, keepdim=True)


def gauss_newton(models: Ensemble, examples: Examples, deleted: Tensor, shift: float) -> Product:
    """v_j -> [(1/n) sum_i (1 - w_ji) J_i' Lambda_i J_i + shift I] v_j at theta_j, for every row j of `deleted` (m, n).

    J_i is the Jacobian of the logits of example i. `shift` is weight decay plus damping. The generalised Gauss-Newton
    matrix is positive semi-definite, and equals the Hessian where the logits are linear in the parameters.
    """

    def logits(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return forward(models.module, parameters, buffers, x)

    def curved(values: Tensor, change: Tensor) -> Tensor:
        return softmax_curvature(values.softmax(-1), change)

    return _summed(models, examples, deleted, shift, _forth_and_back(models, logits, curved))


def empirical_fisher(models: Ensemble, examples: Examples, deleted: Tensor, shift: float) -> Product:
    """v_j -> [(1/n) sum_i (1 - w_ji) g_i g_i' + shift I] v_j with g_i the gradient of example i's loss at theta_j.

    The labels are the given ones, so this is not the curvature of the objective, and small where examples are fitted.
    """

    def values(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return losses(models.module, parameters, buffers, x, y)

    return _summed(models, examples, deleted, shift, _forth_and_back(models, values, lambda _, change: change))


def hessian(models: Ensemble, examples: Examples, deleted: Tensor, shift: float) -> Product:
    """v_j -> [grad^2 F(theta_j; w_j) with `shift` in place of weight decay] v_j, by backpropagating twice.

    On a processor that takes 4.4 forward passes (MLP, 60,000 examples), forward over reverse mode 5.6 to 7.2.
    """

    def values(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return losses(models.module, parameters, buffers, x, y)

    run = _of_every(values, len(models))

    def piece(parameters: Tensors, directions: Tensors, keep: Tensor, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        leaves = list(parameters.values())
        total = (keep * run(parameters, models.buffers, x, y)).sum()  # models do not meet: every one has its own slopes
        slopes = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
        along = torch.stack([(slope * directions[n]).sum() for slope, n in zip(slopes, parameters, strict=True)]).sum()
        return torch.autograd.grad(along, leaves, materialize_grads=True)

    return _summed(models, examples, deleted, shift, piece)


CURVATURES: dict[str, Curvature] = {"gauss_newton": gauss_newton, "hessian": hessian, "fisher": empirical_fisher}


def _forth_and_back(models: Ensemble, function: Function, curved: Callable[[Tensor, Tensor], Tensor]) -> Piece:
    """sum_i keep_i J_i' curved(f_i, J_i v): one pass gives f and J v in forward mode, and the graph of its way back."""
    run = _of_every(function, len(models))

    def piece(parameters: Tensors, directions: Tensors, keep: Tensor, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(value, directions[name]) for name, value in parameters.items()}
            values, change = forward_ad.unpack_dual(run(duals, models.buffers, x, y))
        pulled = curved(values.detach(), change.detach())
        pulled = pulled * keep.reshape(*keep.shape, *[1] * (pulled.dim() - 2))
        return torch.autograd.grad(values, list(parameters.values()), pulled, materialize_grads=True)

    return piece


def _of_every(function: Function, m: int) -> Function:
    """`function` for m models whose tensors have a leading dimension; one model alone is spared the cost of vmap."""
    if m > 1:
        return vmap(function, in_dims=(0, 0, None, None))

    def alone(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        own, constants = ({name: value[0] for name, value in tensors.items()} for tensors in (parameters, buffers))
        return function(own, constants, x, y)[None]

    return alone


def _summed(models: Ensemble, examples: Examples, deleted: Tensor, shift: float, piece: Piece) -> Product:
    """Accumulate `piece` over chunks of the examples."""
    m, n = deleted.shape
    like = {name: value[0] for name, value in models.parameters.items()}
    rows = rows_at_once(models, examples.x, CHUNK, m)
    if examples.x.device.type == "cpu":
        rows = min(rows, max(1, INPUTS // examples.x[0].numel()))

    def apply(vectors: Tensor) -> Tensor:
        directions, total = unflatten(vectors, like), torch.zeros_like(vectors, dtype=torch.float64)
        for first in range(0, n, rows):
            part = slice(first, first + rows)
            with torch.enable_grad():
                parameters = {name: value.detach().requires_grad_() for name, value in models.parameters.items()}
                pieces = piece(parameters, directions, 1 - deleted[:, part], examples.x[part], examples.y[part])
            total += torch.cat([value.reshape(m, -1) for value in pieces], dim=1)
        return (total / n).to(vectors.dtype) + shift * vectors

    return apply


def dense(product: Callable[[Tensor], Tensor], size: int, like: Tensor, chunk: int = 64) -> Tensor:
    """The matrix (p, p) of a product that maps any number of rows (k, p) by one and the same matrix."""
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return torch.cat([product(rows) for rows in eye.split(chunk)])
