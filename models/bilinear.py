"""How the loss of every single example curves between two directions: v' H_i s without a matrix."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.func import jvp, vmap

from data.examples import Examples
from models.curvature import softmax_curvature
from models.gradients import CHUNK, inner_products_many, losses
from models.passes import joined, passes
from models.victim import Tensors, Victim, forward, unflatten


def curvature_between(kind: str, victim: Victim, examples: Examples, v: Tensor, s: Tensor) -> Tensor:
    """v_j' H_i s_j for every row j of `v` and `s` (m, p) and every example i, shape (m, n).

    H_i is the curvature of example i's loss at the victim: of `kind` gauss_newton, hessian or fisher (g_i g_i').
    """
    if kind == "fisher":
        start = victim.copies(1)
        return inner_products_many(start, examples, v) * inner_products_many(start, examples, s)
    run = vmap(partial(_hessian if kind == "hessian" else _gauss_newton, victim), in_dims=(None, 0, 0))
    which, parts = passes(victim, examples.x, CHUNK, len(v), count=2)  # changes along v, and along s

    def products(rows: slice, part: slice) -> Tensor:
        left, right = unflatten(v[rows], victim.moving), unflatten(s[rows], victim.moving)
        found: Tensor = run(examples[part], left, right)
        return found

    with torch.no_grad():
        return joined(which, parts, products, dim=1)


def _gauss_newton(victim: Victim, examples: Examples, left: Tensors, right: Tensors) -> Tensor:
    def logits(values: Tensors) -> Tensor:
        return forward(victim.module, values, victim.buffers, examples.x)

    outputs, change = jvp(logits, (victim.moving,), (right,))[:2]
    pulled: Tensor = jvp(logits, (victim.moving,), (left,))[1]
    return (pulled * softmax_curvature(outputs.softmax(-1), change)).sum(-1)


def _hessian(victim: Victim, examples: Examples, left: Tensors, right: Tensors) -> Tensor:
    def along(values: Tensors) -> Tensor:
        def loss(p: Tensors) -> Tensor:
            return losses(victim.module, p, victim.buffers, examples.x, examples.y)

        return jvp(loss, (values,), (left,))[1]

    curved: Tensor = jvp(along, (victim.moving,), (right,))[1]
    return curved
