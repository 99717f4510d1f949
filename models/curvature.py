"""Products with the curvature of the training objective, for one model and many deletion weights at once.

The objective is F(theta; w) = (1/n) sum_i (1 - w_i) l_i(theta) + (lambda/2) ||theta||^2. Its conventions, for all that
differentiates it:

* Weight decay is half the squared norm of all parameters, biases and normalisation included, so that its curvature is
  lambda I everywhere. (The official code of certified unlearning sums norms that are not squared: curvature zero along
  every tensor, and not a number at a tensor of zeros.) Products take it as part of `shift`.
* Batch-norm is in eval mode: an example's loss does not depend on the other examples, and the running statistics are
  constants, neither differentiated nor updated.
* Dropout is the identity, which is its mean: masks are buffers of ones.
* A pruned parameter takes part in no loss: its row and column hold the shift alone.
* Sums over examples go chunk by chunk, and the sums of chunks are added up in float64: the size of a chunk bounds the
  memory, and changes the result by rounding within a chunk only.

Models and vectors go row by row, or one model serves all rows; so do `forget_weights` and vectors. A product is linear
in its vector, so what depends on the model alone (activations, slopes and their graphs) serves all rows of one model,
and with `hold` all further products too: it is kept, up to a fixed amount of memory, for as long as the product lives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from data.examples import Examples
from models.gradients import losses
from models.linearised import Linear, Linearise, forth_and_back, twice
from models.passes import activations, room, rows_at_once
from models.victim import ModelStack, Tensors, forward, unflatten

Product = Callable[[Tensor], Tensor]  # (m, p) -> (m, p), row by row
LARGEST = 5000  # parameters; the dense curvature of one model then takes 200 MB in float64
CHUNK = 2**18  # examples x models of one product, at most
INPUTS = 2**21  # numbers in their inputs: on a processor, what fits into its cache is faster
HELD = 4  # times what the layers may put out in one pass: numbers of activations and slopes that a product may hold


class Curvature(Protocol):
    """Makes the product with one kind of curvature, for every row j of `forget_weights` (m, n) at theta_j.

    There are m models, or one for all rows; one row of `forget_weights` serves any number of vectors of one model.
    """

    def __call__(
        self, models: ModelStack, examples: Examples, forget_weights: Tensor, shift: float, hold: bool = False
    ) -> Product: ...


def softmax_curvature(probabilities: Tensor, direction: Tensor) -> Tensor:
    """Lambda_i u with Lambda_i = diag(p_i) - p_i p_i', the Hessian of cross-entropy in logits: (..., classes)."""
    weighted = probabilities * direction
    return weighted - probabilities * weighted.sum(-1, keepdim=True)


def gauss_newton(
    models: ModelStack, examples: Examples, forget_weights: Tensor, shift: float, hold: bool = False
) -> Product:
    """v_j -> [(1/n) sum_i (1 - w_ji) J_i' Lambda_i J_i + shift I] v_j at theta_j, for every row j of weights.

    `forget_weights` is (m, n). J_i is the Jacobian of the logits of example i. `shift` is weight decay plus damping.
    The generalised Gauss-Newton matrix is positive semi-definite, and equals the Hessian where the logits are linear in
    the parameters.
    """

    def logits(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return forward(models.module, parameters, buffers, x)

    def inner(values: Tensor) -> Callable[[Tensor], Tensor]:
        return partial(softmax_curvature, values.softmax(-1))

    return _summed(models, examples, forget_weights, shift, forth_and_back(models, logits, inner), hold)


def empirical_fisher(
    models: ModelStack, examples: Examples, forget_weights: Tensor, shift: float, hold: bool = False
) -> Product:
    """v_j -> [(1/n) sum_i (1 - w_ji) g_i g_i' + shift I] v_j with g_i the gradient of example i's loss at theta_j.

    The labels are the given ones, so this is not the curvature of the objective, and small where examples are fitted.
    """

    def values(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return losses(models.module, parameters, buffers, x, y)

    linearise = forth_and_back(models, values, lambda _: lambda change: change)
    return _summed(models, examples, forget_weights, shift, linearise, hold)


def hessian(
    models: ModelStack, examples: Examples, forget_weights: Tensor, shift: float, hold: bool = False
) -> Product:
    """v_j -> [grad^2 F(theta_j; w_j) with `shift` in place of weight decay] v_j, by backpropagating twice.

    On a processor that is faster than forward over reverse mode (MLP, 60,000 examples: 4.4 forward passes against 5.6
    to 7.2).
    """

    def values(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return losses(models.module, parameters, buffers, x, y)

    if len(models) == 1 < len(forget_weights):  # its slopes depend on the weights, so every row has its own
        models = models[0].copies(len(forget_weights))
    return _summed(models, examples, forget_weights, shift, twice(models, values), hold)


CURVATURES: dict[str, Curvature] = {"gauss_newton": gauss_newton, "hessian": hessian, "fisher": empirical_fisher}


def _summed(
    models: ModelStack, examples: Examples, forget_weights: Tensor, shift: float, linearise: Linearise, hold: bool
) -> Product:
    """Accumulate over chunks of the examples; with `hold` the first of them stay linearised for the next call."""
    n = len(examples)
    like = {name: value[0] for name, value in models.moving.items()}
    numbers = activations(models, examples.x)
    chunk = rows_at_once(models, examples.x, CHUNK, len(models))
    if examples.x.device.type == "cpu":
        chunk = min(chunk, max(1, INPUTS // examples.x[0].numel()))
    chunk = min(chunk, max(1, n))
    space = room(examples.x.device)
    together = max(1, min(CHUNK, space // numbers) // chunk)  # rows of one model that go back at once
    size = sum(value.numel() for value in like.values())
    kept = len(models) * (3 * chunk * numbers + size)  # of a chunk: values, slopes in both, and what leads there
    chunks_held = int(HELD * space // kept) if hold else 0
    held: dict[int, Linear] = {}

    def at(first: int) -> Linear:
        part = slice(first, first + chunk)
        with torch.enable_grad():
            parameters = {name: value.detach().requires_grad_() for name, value in models.moving.items()}
            return linearise(parameters, 1 - forget_weights[:, part], examples.x[part], examples.y[part])

    def apply(vectors: Tensor) -> Tensor:
        vectors = vectors.detach()
        total = torch.zeros_like(vectors, dtype=torch.float64)
        step = together if len(models) == 1 else len(vectors)
        parts = [slice(begin, begin + step) for begin in range(0, len(vectors), step)]
        inside = models.pruned(vectors)
        directions = [list(unflatten(inside[rows], like).values()) for rows in parts]
        for first in range(0, n, chunk):
            linear = held.get(first) or at(first)
            if first // chunk < chunks_held:
                held[first] = linear
            for rows, along in zip(parts, directions, strict=True):
                total[rows] += torch.cat([value.flatten(1) for value in linear(along, rows)], dim=1)
        return models.pruned((total / n).to(vectors.dtype)) + shift * vectors

    return apply


def dense(product: Callable[[Tensor], Tensor], size: int, like: Tensor, chunk: int = 64) -> Tensor:
    """The matrix (p, p) of a product that maps any number of rows (k, p) by one and the same matrix."""
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return torch.cat([product(rows) for rows in eye.split(chunk)])
