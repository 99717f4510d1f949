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

Models and vectors go row by row, or one model serves all rows; so do `deleted` and vectors. A product is linear in its
vector, so what depends on the model alone (activations, slopes and their graphs) serves all rows of one model, and with
`hold` all further products too: it is kept, up to a fixed amount of memory, for as long as the product lives. A held
product costs about half of one that starts from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.func import vmap

from data.examples import Examples
from models.gradients import losses
from models.victim import Ensemble, Tensors, activations, forward, room, rows_at_once, unflatten

Product = Callable[[Tensor], Tensor]  # (m, p) -> (m, p), row by row
Function = Callable[[Tensors, Tensors, Tensor, Tensor], Tensor]  # parameters, buffers, x (b, ...), y (b,) -> (b, ...)
Linear = Callable[[Sequence[Tensor], slice], Sequence[Tensor]]  # a tensor (r, ...) for each parameter, and which rows
Linearise = Callable[[Tensors, Tensor, Tensor, Tensor], Linear]  # parameters (m, ...), 1 - w (m, b), x (b, ...), y (b,)
CHUNK = 2**18  # examples x models of one product, at most
INPUTS = 2**21  # numbers in their inputs: on a processor, what fits into its cache is faster
HELD = 4  # times what the layers may put out in one pass: numbers of activations and slopes that a product may hold


class Curvature(Protocol):
    """Makes the product with one kind of curvature, for every row j of `deleted` (m, n) at theta_j.

    There are m models, or one for all rows; one row of `deleted` serves any number of vectors of one model.
    """

    def __call__(
        self, models: Ensemble, examples: Examples, deleted: Tensor, shift: float, hold: bool = False
    ) -> Product: ...


def softmax_curvature(probabilities: Tensor, direction: Tensor) -> Tensor:
    """Lambda_i u with Lambda_i = diag(p_i) - p_i p_i', the Hessian of cross-entropy in logits: (..., classes)."""
    weighted = probabilities * direction
    return weighted - probabilities * weighted.sum(-1, keepdim=True)


def gauss_newton(models: Ensemble, examples: Examples, deleted: Tensor, shift: float, hold: bool = False) -> Product:
    """v_j -> [(1/n) sum_i (1 - w_ji) J_i' Lambda_i J_i + shift I] v_j at theta_j, for every row j of `deleted` (m, n).

    J_i is the Jacobian of the logits of example i. `shift` is weight decay plus damping. The generalised Gauss-Newton
    matrix is positive semi-definite, and equals the Hessian where the logits are linear in the parameters.
    """

    def logits(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return forward(models.module, parameters, buffers, x)

    def inner(values: Tensor) -> Callable[[Tensor], Tensor]:
        return partial(softmax_curvature, values.softmax(-1))

    return _summed(models, examples, deleted, shift, _forth_and_back(models, logits, inner), hold)


def empirical_fisher(
    models: Ensemble, examples: Examples, deleted: Tensor, shift: float, hold: bool = False
) -> Product:
    """v_j -> [(1/n) sum_i (1 - w_ji) g_i g_i' + shift I] v_j with g_i the gradient of example i's loss at theta_j.

    The labels are the given ones, so this is not the curvature of the objective, and small where examples are fitted.
    """

    def values(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return losses(models.module, parameters, buffers, x, y)

    linearise = _forth_and_back(models, values, lambda _: lambda change: change)
    return _summed(models, examples, deleted, shift, linearise, hold)


def hessian(models: Ensemble, examples: Examples, deleted: Tensor, shift: float, hold: bool = False) -> Product:
    """v_j -> [grad^2 F(theta_j; w_j) with `shift` in place of weight decay] v_j, by backpropagating twice.

    On a processor that is faster than forward over reverse mode (MLP, 60,000 examples: 4.4 forward passes against 5.6
    to 7.2).
    """

    def values(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return losses(models.module, parameters, buffers, x, y)

    if len(models) == 1 < len(deleted):  # its slopes hang on the weights, so every row has its own
        models = models[0].copies(len(deleted))
    run = _of_every(values, len(models))

    def linearise(parameters: Tensors, keep: Tensor, x: Tensor, y: Tensor) -> Linear:
        leaves = list(parameters.values())
        total = (keep * run(parameters, models.buffers, x, y)).sum()  # models do not meet: every one has its own slopes
        used, slopes = _slopes(total, leaves)

        def apply(directions: Sequence[Tensor], rows: slice) -> Sequence[Tensor]:
            # One row of one model after the other: torch cannot batch the second derivative of group-norm.
            parts = zip(*[directions[k].split(len(models)) for k in used], strict=True)
            return [torch.cat(found) for found in zip(*[_back(slopes, leaves, part) for part in parts], strict=True)]

        return apply

    return _summed(models, examples, deleted, shift, linearise, hold)


CURVATURES: dict[str, Curvature] = {"gauss_newton": gauss_newton, "hessian": hessian, "fisher": empirical_fisher}


def _forth_and_back(
    models: Ensemble, function: Function, inner: Callable[[Tensor], Callable[[Tensor], Tensor]]
) -> Linearise:
    """v -> sum_i keep_i J_i' inner(f_i)(J_i v).

    u -> J' u is linear in u, so that its own way back is v -> J v, whatever u was: both passes walk graphs that are
    built once.
    """
    run = _of_every(function, len(models))

    def linearise(parameters: Tensors, keep: Tensor, x: Tensor, y: Tensor) -> Linear:
        leaves = list(parameters.values())
        values = run(parameters, models.buffers, x, y)
        u = torch.zeros_like(values, requires_grad=True)
        used, back = _slopes(values, leaves, u)
        curved, weights = inner(values.detach()), keep.reshape(*keep.shape, *[1] * (values.dim() - 2))

        def apply(directions: Sequence[Tensor], rows: slice) -> Sequence[Tensor]:
            (change,) = _back(back, [u], [directions[k] for k in used])
            return _back([values], leaves, [curved(change) * (weights[rows] if len(weights) > 1 else weights)])

        return apply

    return linearise


def _slopes(values: Tensor, leaves: list[Tensor], u: Tensor | None = None) -> tuple[list[int], list[Tensor]]:
    """d<u, values>/d leaf with its graph, and the positions of the leaves on which the values depend."""
    slopes = torch.autograd.grad(values, leaves, u, create_graph=True, allow_unused=True)
    used = [k for k, slope in enumerate(slopes) if slope is not None and slope.requires_grad]
    return used, [slopes[k] for k in used]


def _back(outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Vector-Jacobian products (r, ...), row by row: of r models, or of one model with r rows of `vectors` (r, ...)."""
    r = len(vectors[0])
    if len(inputs[0]) == r:
        return torch.autograd.grad(outputs, inputs, vectors, retain_graph=True, materialize_grads=True)
    rows = [vector[:, None] for vector in vectors]
    found = torch.autograd.grad(outputs, inputs, rows, retain_graph=True, is_grads_batched=True, allow_unused=True)
    return [
        value.new_zeros(r, *value.shape[1:]) if slope is None else slope[:, 0]
        for slope, value in zip(found, inputs, strict=True)
    ]


def _of_every(function: Function, m: int) -> Function:
    """`function` for m models whose tensors have a leading dimension; one model alone is spared the cost of vmap."""
    if m > 1:
        return vmap(function, in_dims=(0, 0, None, None))

    def alone(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        own, constants = ({name: value[0] for name, value in tensors.items()} for tensors in (parameters, buffers))
        return function(own, constants, x, y)[None]

    return alone


def _summed(
    models: Ensemble, examples: Examples, deleted: Tensor, shift: float, linearise: Linearise, hold: bool
) -> Product:
    """Accumulate over chunks of the examples; with `hold` the first of them stay linearised for the next call."""
    m, n = max(len(models), len(deleted)), len(examples)
    like = {name: value[0] for name, value in models.parameters.items()}
    numbers = activations(models, examples.x)
    chunk = rows_at_once(models, examples.x, CHUNK, m)
    if examples.x.device.type == "cpu":
        chunk = min(chunk, max(1, INPUTS // examples.x[0].numel()))
    space = room(examples.x.device)
    together = max(1, min(CHUNK, space // numbers) // min(chunk, n))  # rows of one model that go back at once
    most = HELD * space / (3 * len(models) * numbers) if hold else 0.0  # values, slopes, and what leads there
    held: dict[int, Linear] = {}

    def at(first: int) -> Linear:
        part = slice(first, first + chunk)
        with torch.enable_grad():
            parameters = {name: value.detach().requires_grad_() for name, value in models.parameters.items()}
            return linearise(parameters, 1 - deleted[:, part], examples.x[part], examples.y[part])

    def apply(vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors, dtype=torch.float64)
        step = together if len(models) == 1 else len(vectors)
        parts = [slice(begin, begin + step) for begin in range(0, len(vectors), step)]
        directions = [list(unflatten(vectors[rows].detach(), like).values()) for rows in parts]
        for first in range(0, n, chunk):
            linear = held.get(first) or at(first)
            if min(first + chunk, n) <= most:
                held[first] = linear
            for rows, along in zip(parts, directions, strict=True):
                total[rows] += torch.cat([value.flatten(1) for value in linear(along, rows)], dim=1)
        return (total / n).to(vectors.dtype) + shift * vectors

    return apply


def dense(product: Callable[[Tensor], Tensor], size: int, like: Tensor, chunk: int = 64) -> Tensor:
    """The matrix (p, p) of a product that maps any number of rows (k, p) by one and the same matrix."""
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return torch.cat([product(rows) for rows in eye.split(chunk)])
