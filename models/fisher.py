"""The diagonal of the Fisher information: how much the predictions hang on every single parameter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from data.examples import Examples
from models.gradients import NUMBERS
from models.passes import rows_at_once
from models.victim import Tensors, Victim, forward


def diagonal_fisher(victim: Victim, examples: Examples, weights: Tensor) -> Tensor:
    """sum_i c_ji sum_y p(y|x_i) (d log p(y|x_i) / d theta)^2 for every row c_j of `weights` (r, n), shape (r, p).

    The true Fisher: the labels are averaged over what the model predicts, and those of `examples` are not used. Squares
    are of single examples, never of a batch mean, and the model is in eval mode. It is the diagonal of the sum of
    J_i' (diag p_i - p_i p_i') J_i, with the Jacobians J_i of the logits. At most 2**26 numbers of Jacobians are held.
    Source: Golatkar et al., CVPR 2020.
    """
    parameters = {name: value.detach() for name, value in victim.moving.items()}
    size, classes = victim.flat().numel(), victim.logits(examples.x[:1]).shape[1]
    total = torch.zeros(len(weights), size, dtype=torch.float64, device=weights.device)

    def log_probabilities(values: Tensors, x: Tensor) -> Tensor:
        return forward(victim.module, values, victim.buffers, x[None])[0].log_softmax(-1)

    jacobians = vmap(jacrev(log_probabilities), in_dims=(None, 0))
    rows = rows_at_once(victim, examples.x, max(1, NUMBERS // (size * classes)), classes)
    with torch.no_grad():
        for first in range(0, len(examples), rows):
            part = slice(first, first + rows)
            slopes = jacobians(parameters, examples.x[part])  # by name, (rows, classes, ...)
            mass = weights[:, part, None] * victim.probabilities(examples.x[part])
            squares = [mass.flatten(1) @ _square(value.flatten(0, 1).flatten(1)) for value in slopes.values()]
            total += torch.cat(squares, dim=1)
    return total.to(weights.dtype)


def _square(values: Tensor) -> Tensor:
    """In place where that can be: the zeros of a parameter that is not used are one number, seen many times."""
    return values.square_() if values.is_contiguous() else values.square()
