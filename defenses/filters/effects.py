"""First-order effects of deletions: B v for a preconditioner B, and how the margins of trusted points move along it.

Deleting records i of a set Z moves the parameters by about d = B sum_{i in Z} g_i with B = H^{-1} and g_i = grad l_i
at the victim, and so a functional psi by sum_i a_i(psi), a_i(psi) = <B grad psi, g_i> (Koh and Liang, ICML 2017).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.func import jvp, vmap

from data.errors import UserError
from data.examples import Examples
from defenses.defense import Context
from models.gradients import CHUNK, inner_products, weighted_gradient
from models.influence import inverse_curvature
from models.passes import rows_at_once
from models.solver import Solver
from models.victim import Tensors, Victim, forward, unflatten

Preconditioner = Literal["inverse_curvature", "identity"]


def preconditioned(context: Context, vectors: Tensor, kind: Preconditioner, solver: Solver) -> Tensor:
    """B v for every row v of `vectors` (k, p): the inverse curvature of the sum of losses, or 1/n times the identity.

    The curvature is that at the victim, with what was deleted before left out.
    """
    task, n = context.task, len(context.task.records)
    if kind == "identity":
        return vectors / n
    models, kept = context.victim.copies(1), task.total(vectors.new_zeros(1, n))
    decay = task.training.weight_decay
    return inverse_curvature(solver, models, task.records, kept, decay, vectors, base=context.victim).x / n


def summed_gradient(victim: Victim, requested: Examples) -> Tensor:
    """sum_i g_i (p,) over the requested records."""
    return weighted_gradient(victim, requested, requested.x.new_ones(1, len(requested)))[0]


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """f_y - max_{k != y} f_k (...,) of logits (..., K) and labels (...,), in logit units."""
    own = torch.arange(logits.shape[-1], device=logits.device) == labels[..., None]
    return logits.masked_fill(~own, -torch.inf).amax(-1) - logits.masked_fill(own, -torch.inf).amax(-1)


def predicted(victim: Victim, points: Examples) -> Tensor:
    """The labels (t,) that the victim predicts; raises UserError where there are no trusted points."""
    if len(points) == 0:
        raise UserError("This filter looks at trusted examples, and there are none; keep some in the data set.")
    return victim.logits(points.x).argmax(-1)


def margin_changes(victim: Victim, points: Examples, labels: Tensor, direction: Tensor) -> Tensor:
    """<grad m_j, v> (t,): by how much the margins of `labels` (t,) at the points change along v = `direction` (p,)."""
    tangent = unflatten(victim.pruned(direction), victim.moving)

    def along(x: Tensor, y: Tensor) -> Tensor:
        def margin(parameters: Tensors) -> Tensor:
            return margins(forward(victim.module, parameters, victim.buffers, x), y)

        return jvp(margin, (victim.moving,), (tangent,))[1]

    with torch.no_grad():
        rows = rows_at_once(victim, points.x, CHUNK)
        return torch.cat([along(x, y) for x, y in zip(points.x.split(rows), labels.split(rows), strict=True)])


def margin_gradients(victim: Victim, points: Examples, labels: Tensor) -> Tensor:
    """grad m_j (t, p) of the margin of each of `labels` (t,) at its point: t x p numbers, so for few points only."""
    own = {n: v.detach().expand(len(points), *v.shape).requires_grad_() for n, v in victim.moving.items()}
    logits = vmap(forward, in_dims=(None, 0, None, 0))(victim.module, own, victim.buffers, points.x[:, None])[:, 0]
    pieces = torch.autograd.grad(margins(logits, labels).sum(), list(own.values()), materialize_grads=True)
    return victim.pruned(torch.cat([piece.reshape(len(points), -1) for piece in pieces], dim=1))


def on_most_moved(context: Context, requested: Examples, kind: Preconditioner, solver: Solver) -> Tensor:
    """sign(A_j*) a_i(m_j*) (m,): the share of each request in the largest move |A_j*| of a trusted point's margin.

    A_j = sum_i a_i(m_j) is the first-order effect of the whole batch on the margin of the label that the victim
    predicts at trusted point j, all of them from one solve; j* is its largest in absolute value.
    """
    victim, labels = context.victim, predicted(context.victim, context.trusted)
    step = preconditioned(context, summed_gradient(victim, requested)[None], kind, solver)[0]
    moved = margin_changes(victim, context.trusted, labels, step)
    most = moved.abs().argmax()[None]
    shares = on_margin(context, requested, context.trusted[most], labels[most], kind, solver)
    return moved[most].sign() * shares


def on_margin(
    context: Context, requested: Examples, point: Examples, label: Tensor, kind: Preconditioner, solver: Solver
) -> Tensor:
    """a_i(m) (m,): the effect of each request on the margin of `label` (1,) at one `point`."""
    slope = margin_gradients(context.victim, point, label)
    direction = preconditioned(context, slope, kind, solver)[0]
    return inner_products(context.victim, requested, direction)
