"""What one can ask of a trained model about single examples: losses, gradients, and inner products with a direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from data.examples import Examples
from models.passes import joined, passes, rows_at_once
from models.victim import ModelStack, Tensors, Victim, forward, unflatten

CHUNK = 2**18  # examples x models of one pass, at most
NUMBERS = 2**26  # numbers in the per-example gradients that are held at once
GRAPH = 4  # times as much as its values, and more, is held of what is differentiated once more


def losses(module: nn.Module, parameters: Mapping[str, Tensor], buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
    """Per-example cross-entropy l_i(theta), shape (n,), in nats."""
    return F.cross_entropy(forward(module, parameters, buffers, x), y, reduction="none")


def inner_products(victim: Victim, examples: Examples, direction: Tensor, chunk: int = CHUNK) -> Tensor:
    """<grad l_i(theta), v> for every example i, shape (n,), with v = `direction` of shape (p,).

    One forward-mode pass per chunk: the derivative of the vector of losses along v. No per-example gradient is stored.
    """
    tangent = unflatten(victim.pruned(direction), victim.moving)

    def along(x: Tensor, y: Tensor) -> Tensor:
        def loss(parameters: Tensors) -> Tensor:
            return losses(victim.module, parameters, victim.buffers, x, y)

        return jvp(loss, (victim.moving,), (tangent,))[1]

    with torch.no_grad():
        rows = rows_at_once(victim, examples.x, chunk)
        parts = zip(examples.x.split(rows), examples.y.split(rows), strict=True)
        return torch.cat([along(x, y) for x, y in parts])


def inner_products_many(models: ModelStack, examples: Examples, directions: Tensor, chunk: int = CHUNK) -> Tensor:
    """<grad l_i(theta_j), v_j> for every direction j and example i, shape (m, n); `directions` is (m, p).

    There are m models, or one that serves all directions.
    """

    def along(parameters: Tensors, buffers: Tensors, tangent: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return jvp(lambda p: losses(models.module, p, buffers, x, y), (parameters,), (tangent,))[1]

    directions = models.pruned(directions)
    like, alone = {name: value[0] for name, value in models.moving.items()}, len(models) == 1
    run = vmap(along, in_dims=(None if alone else 0, None if alone else 0, 0, None, None))
    which, parts = passes(models, examples.x, chunk, len(directions))

    def products(rows: slice, part: slice) -> Tensor:
        at = models[0] if alone else models.select(rows)
        found: Tensor = run(
            at.moving, at.buffers, unflatten(directions[rows], like), examples.x[part], examples.y[part]
        )
        return found

    with torch.no_grad():
        return joined(which, parts, products, dim=1)


def per_example_gradients(victim: Victim, examples: Examples) -> Tensor:
    """grad l_i(theta) for every example, shape (n, p): n x p numbers, so for small n or p only."""
    # One copy of the parameters for each example, and one backward pass: torch.func.grad would import the compiler.
    own = {n: v.detach().expand(len(examples), *v.shape).requires_grad_() for n, v in victim.moving.items()}
    run = vmap(forward, in_dims=(None, 0, None, 0))
    logits = run(victim.module, own, victim.buffers, examples.x[:, None])[:, 0]
    total = F.cross_entropy(logits, examples.y, reduction="sum")
    pieces = torch.autograd.grad(total, list(own.values()), materialize_grads=True)
    return victim.pruned(torch.cat([piece.reshape(len(examples), -1) for piece in pieces], dim=1))


def gradient_matrix(victim: Victim, examples: Examples) -> Tensor:
    """grad l_i(theta) for every example, shape (n, p), in parts that bound what is held beside the result."""
    size = gradients_at_once(victim, examples.x)
    parts = range(0, len(examples), size)
    return torch.cat([per_example_gradients(victim, examples[slice(i, i + size)]) for i in parts])


def gradients_at_once(victim: Victim, x: Tensor) -> int:
    """How many per-example gradients of the model, at inputs like `x`, fit into the memory set aside for them."""
    return rows_at_once(victim, x, max(1, min(256, NUMBERS // victim.flat().numel())))


def graphs_at_once(victim: Victim, x: Tensor) -> int:
    """How many of them, each with the graph of its way back."""
    return max(1, gradients_at_once(victim, x) // GRAPH)


def gradient_norms(victim: Victim, examples: Examples, chunk: int | None = None) -> Tensor:
    """||grad l_i(theta)|| for every example, shape (n,); `chunk` gradients are held at once (default: what fits)."""
    size, found = chunk or gradients_at_once(victim, examples.x), victim.flat().new_empty(len(examples))
    for first in range(0, len(examples), size):  # into one tensor: see `models.passes.joined`
        part = slice(first, first + size)
        found[part] = per_example_gradients(victim, examples[part]).norm(dim=1)
    return found


def weighted_gradient(victim: Victim, examples: Examples, weights: Tensor, chunk: int = CHUNK) -> Tensor:
    """sum_i c_i grad l_i(theta) for every row c of `weights` (m, n), shape (m, p).

    Chunks are added up in float64, so that their size changes the result by rounding within a chunk only. Examples of
    weight zero are left out. Where not all fits into one pass, rows that share few examples go one by one.
    """
    touched = (weights != 0).any(dim=0)
    used = int(touched.sum())
    if used < len(examples):
        examples, weights = examples[touched], weights[:, touched]
    m, own = len(weights), weights != 0
    shared_cost, own_cost = used * (1 + 2 * m), 3 * int(own.sum())  # forward passes; one back costs about two
    if m > 1 and own_cost < shared_cost and used > rows_at_once(victim, examples.x, chunk, m):
        pairs = zip(weights, own, strict=True)
        return torch.cat([_summed(victim, examples[mine], row[mine][None], chunk) for row, mine in pairs])
    return _summed(victim, examples, weights, chunk)


def _summed(victim: Victim, examples: Examples, weights: Tensor, chunk: int) -> Tensor:
    """The same, all rows in every pass."""
    total = torch.zeros(len(weights), victim.flat().numel(), dtype=torch.float64, device=weights.device)
    step = rows_at_once(victim, examples.x, chunk, len(weights))
    for first in range(0, len(examples), step):
        part, rows = examples[slice(first, first + step)], weights[:, first : first + step]
        parameters = {name: value.detach().requires_grad_() for name, value in victim.moving.items()}
        values = losses(victim.module, parameters, victim.buffers, part.x, part.y)
        wrt = list(parameters.values())
        if len(rows) == 1:
            pieces = torch.autograd.grad((values * rows[0]).sum(), wrt, materialize_grads=True)
            total[0] += torch.cat([piece.reshape(-1) for piece in pieces])
        else:
            found = torch.autograd.grad(values, wrt, grad_outputs=rows, is_grads_batched=True, allow_unused=True)
            filled = [  # a parameter that is not used has the gradient zero
                value.new_zeros(len(rows), value.numel()) if piece is None else piece.reshape(len(rows), -1)
                for piece, value in zip(found, wrt, strict=True)
            ]
            total += torch.cat(filled, dim=1)
    return victim.pruned(total.to(weights.dtype))


def objective_gradient(victim: Victim, examples: Examples, forget_weights: Tensor, weight_decay: float) -> Tensor:
    """grad F(theta; w) = (1/n) sum_i (1 - w_i) g_i + lambda theta (m, p) for every row w of `forget_weights` (m, n)."""
    return weighted_gradient(victim, examples, (1 - forget_weights) / len(examples)) + weight_decay * victim.flat()


def weighted_input_gradients(victim: Victim, examples: Examples, weights: Tensor, direction: Tensor) -> Tensor:
    """c_i grad_x <v, grad_theta l(x_i, y_i; theta)>, shape of `examples.x`, with c (n,) and v = `direction` (p,).

    Examples of weight zero are left out, and their slopes are zero.
    """
    slopes, used = torch.zeros_like(examples.x), weights != 0
    if bool(used.any()):
        scale = weights[used].reshape(-1, *[1] * (examples.x.dim() - 1))
        slopes[used] = scale * input_gradients(victim, examples[used], direction)
    return slopes


def input_gradients(victim: Victim, examples: Examples, direction: Tensor) -> Tensor:
    """grad_x <v, grad_theta l(x_i, y_i; theta)> for every example, shape of `examples.x`, with v = `direction` (p,)."""
    tangent = unflatten(victim.pruned(direction), victim.moving)

    def total(x: Tensor, y: Tensor) -> Tensor:
        def loss(parameters: Tensors) -> Tensor:
            return losses(victim.module, parameters, victim.buffers, x, y)

        return jvp(loss, (victim.moving,), (tangent,))[1].sum()

    return by_parts(examples, rows_at_once(victim, examples.x, CHUNK, GRAPH), lambda part: grad(total)(part.x, part.y))


def by_parts(examples: Examples, size: int, slopes: Callable[[Examples], Tensor]) -> Tensor:
    """What `slopes` gives for at most `size` examples at a time, each of the shape of its input: (n, *shape)."""
    found = torch.empty_like(examples.x)
    for first in range(0, len(examples), size):
        part = slice(first, first + size)
        found[part] = slopes(examples[part])
    return found


def own_input_gradients(victim: Victim, examples: Examples, directions: Tensor) -> Tensor:
    """grad_x <v_i, grad_theta l(x_i, y_i; theta)> (n, *shape), with its own direction v_i (p,) for each example."""
    size = graphs_at_once(victim, examples.x)
    waiting = iter(directions.split(size))  # they are asked for in their order
    return by_parts(examples, size, lambda part: _own_input_gradients(victim, part, next(waiting)))


def _own_input_gradients(victim: Victim, examples: Examples, directions: Tensor) -> Tensor:
    parameters = {n: v.detach().expand(len(examples), *v.shape).requires_grad_() for n, v in victim.moving.items()}
    x = examples.x.detach().requires_grad_()
    logits = vmap(forward, in_dims=(None, 0, None, 0))(victim.module, parameters, victim.buffers, x[:, None])[:, 0]
    loss = F.cross_entropy(logits, examples.y, reduction="sum")
    pieces = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, materialize_grads=True)
    flat = torch.cat([piece.reshape(len(examples), -1) for piece in pieces], dim=1)
    [slopes] = torch.autograd.grad((flat * directions).sum(), [x], materialize_grads=True)
    return slopes
