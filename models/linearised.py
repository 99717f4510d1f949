"""What of a curvature product depends on the model alone: a chunk of examples, differentiated once for many vectors.

`Linearise` does that work at the parameters of m models, or of one that serves all rows; the `Linear` map that it gives
takes one tensor (r, ...) for each parameter, and which of the rows they are, and gives as many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import vmap
from torch.nn.modules.conv import _ConvNd

from models.victim import ModelStack, Tensors

Function = Callable[[Tensors, Tensors, Tensor, Tensor], Tensor]  # parameters, buffers, x (b, ...), y (b,) -> (b, ...)
Linear = Callable[[Sequence[Tensor], slice], Sequence[Tensor]]  # a tensor (r, ...) for each parameter, and which rows
Inner = Callable[[Tensor], Callable[[Tensor], Tensor]]  # values (m, b, ...) -> what multiplies changes of them
Linearise = Callable[[Tensors, Tensor, Tensor, Tensor], Linear]  # parameters (m, ...), 1 - w (m, b), x (b, ...), y (b,)

FEW = 2  # convolutions


def forth_and_back(models: ModelStack, function: Function, inner: Inner) -> Linearise:
    """v -> sum_i keep_i J_i' inner(f_i)(J_i v), in the way that is faster for the module.

    Measured on a processor, in forward passes: backwards twice takes 4.4 for a perceptron, and 2.4 where it is held;
    with dual numbers 4.4. Every convolution whose parameters move has to be differentiated twice: with two of them held
    products still take half to three quarters of the time of dual numbers, in residual networks twice that time.
    """
    names = [name for name, layer in models.module.named_modules() if isinstance(layer, _ConvNd)]
    moving = sum(any(f"{name}.{each}" in models.moving for each in ("weight", "bias")) for name in names)
    return (_by_going_back_twice if moving <= FEW else _by_dual_numbers)(models, function, inner)


def _by_going_back_twice(models: ModelStack, function: Function, inner: Inner) -> Linearise:
    """u -> J' u is linear in u, so that its own way back is v -> J v, whatever u was: two graphs, built once."""
    run = _of_every(function, len(models))

    def linearise(parameters: Tensors, retain_weights: Tensor, x: Tensor, y: Tensor) -> Linear:
        leaves = list(parameters.values())
        values = run(parameters, models.buffers, x, y)
        u = torch.zeros_like(values, requires_grad=True)
        used, back = _slopes(values, leaves, u)
        curved, weights = inner(values.detach()), _like(retain_weights, values)

        def apply(directions: Sequence[Tensor], rows: slice) -> Sequence[Tensor]:
            (change,) = _back(back, [u], [directions[k] for k in used])
            return _back([values], leaves, [curved(change) * (weights[rows] if len(weights) > 1 else weights)])

        return apply

    return linearise


def _by_dual_numbers(models: ModelStack, function: Function, inner: Inner) -> Linearise:
    """One pass gives f and J v in forward mode, and the graph of its way back; rows of one model go one by one."""
    run = _of_every(function, len(models))

    def linearise(parameters: Tensors, retain_weights: Tensor, x: Tensor, y: Tensor) -> Linear:
        leaves = list(parameters.values())

        def once(directions: Sequence[Tensor], kept: Tensor) -> Sequence[Tensor]:
            with torch.enable_grad(), forward_ad.dual_level():
                pairs = zip(parameters.items(), directions, strict=True)
                duals = {name: forward_ad.make_dual(value, along) for (name, value), along in pairs}
                values, change = forward_ad.unpack_dual(run(duals, models.buffers, x, y))
            pulled = inner(values.detach())(change.detach()) * _like(kept, values)
            return torch.autograd.grad(values, leaves, pulled, materialize_grads=True)

        def apply(directions: Sequence[Tensor], rows: slice) -> Sequence[Tensor]:
            own = len(retain_weights) > 1
            kept = retain_weights[rows] if own else retain_weights.expand(len(directions[0]), -1)
            parts = zip(*[each.split(len(models)) for each in (*directions, kept)], strict=True)
            return [torch.cat(found) for found in zip(*[once(part[:-1], part[-1]) for part in parts], strict=True)]

        return apply

    return linearise


def twice(models: ModelStack, values: Function) -> Linearise:
    """v -> grad^2 (sum_i keep_i l_i) v for the losses l_i that `values` gives: slopes, and the way back from them."""
    run = _of_every(values, len(models))

    def linearise(parameters: Tensors, retain_weights: Tensor, x: Tensor, y: Tensor) -> Linear:
        leaves = list(parameters.values())
        kept = retain_weights * run(parameters, models.buffers, x, y)
        total = kept.sum()  # models do not meet: every one has its own slopes
        used, slopes = _slopes(total, leaves)

        def apply(directions: Sequence[Tensor], rows: slice) -> Sequence[Tensor]:
            # One row of one model after the other: torch cannot batch the second derivative of group-norm.
            parts = zip(*[directions[k].split(len(models)) for k in used], strict=True)
            return [torch.cat(found) for found in zip(*[_back(slopes, leaves, part) for part in parts], strict=True)]

        return apply

    return linearise


def _like(retain_weights: Tensor, values: Tensor) -> Tensor:
    """`retain_weights` (m, b) with as many dimensions as `values` (m, b, ...)."""
    return retain_weights.reshape(*retain_weights.shape, *[1] * (values.dim() - 2))


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
