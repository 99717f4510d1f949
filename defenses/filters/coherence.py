"""Whether the gradients of a batch add up: one statistic of a batch as a whole, and what random batches make of it.

    C = ||sum_{i in Z} g_i||_B^2 / sum_{i in Z} ||g_i||_B^2,    ||v||_B^2 = <v, B v>,    g_i = grad l_i(theta),

for a preconditioner B of `defenses.filters.effects`, whose scale cancels. C is 1 where gradients are orthogonal in B,
and the number of requests, its largest value, where all are the same. The statistic is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.examples import Examples
from defenses.defense import Context
from defenses.filters.effects import Preconditioner, preconditioned, summed_gradient
from defenses.filters.trusted_points import random_sets, stored
from models.gradients import gradients_at_once, per_example_gradients, weighted_gradient
from models.passes import models_at_once
from models.solver import Solver
from models.victim import Victim

NUMBERS = 2**24  # in the sums of gradients of random sets that are held at once
OWN = 4  # times as long as in the gradient of a sum an example takes where its own gradient is written down


def coherence(context: Context, requested: Examples, kind: Preconditioner, solver: Solver) -> float:
    """C of the requested records, between 0 and their number; 0 where all gradients are zero.

    A solve for every record, and one for their sum.
    """
    total = _squared(context, summed_gradient(context.victim, requested)[None], kind, solver)
    return float(_ratio(total, squared_lengths(context, requested, kind, solver).sum()[None])[0])


def squared_lengths(context: Context, records: Examples, kind: Preconditioner, solver: Solver) -> Tensor:
    """<g_i, B g_i> (n,), float64, of every one of the `records`."""
    size, found = min(gradients_at_once(context.victim, records.x), models_at_once(context.victim)), []
    for first in range(0, len(records), size):
        own = per_example_gradients(context.victim, records[slice(first, first + size)])
        found.append(_squared(context, own, kind, solver))
    return torch.cat(found)


def random_coherences(context: Context, size: int, sets: int, kind: Preconditioner, solver: Solver) -> Tensor:
    """C of `sets` simple random samples of `size` of the stored records that are not gone, (sets,), float64.

    The samples are always the same. A solve for every stored record and for every sample, of as many samples at a time
    as there is room for.
    """
    victim, records = context.victim, stored(context)
    lengths = squared_lengths(context, records, kind, solver)
    found, p = torch.zeros(sets, dtype=torch.float64, device=lengths.device), victim.flat().numel()
    at_once = max(1, NUMBERS // max(p, len(records)))
    apart = OWN * len(records) > min(at_once, sets) * size
    for rows, drawn in random_sets(len(records), size, sets, at_once):
        drawn = drawn.to(lengths.device)
        inside = records.x.new_zeros(len(drawn), len(records)).scatter_(1, drawn, 1)
        totals = weighted_gradient(victim, records, inside) if apart else _totals(victim, records, inside)
        found[rows] = _ratio(_squared(context, totals, kind, solver), lengths[drawn].sum(1))
    return found


def _totals(victim: Victim, records: Examples, inside: Tensor) -> Tensor:
    """The sums of gradients (k, p) of samples (k, n), 1 where a record is inside, in one pass over all gradients."""
    totals = torch.zeros(len(inside), victim.flat().numel(), dtype=torch.float64, device=inside.device)
    for part in torch.arange(len(records), device=inside.device).split(gradients_at_once(victim, records.x)):
        totals += inside[:, part] @ per_example_gradients(victim, records[part])
    return totals.to(inside)


def _squared(context: Context, vectors: Tensor, kind: Preconditioner, solver: Solver) -> Tensor:
    """<v, B v> (k,), float64, for every row v of `vectors` (k, p); what a solver leaves below zero is zero."""
    moved = preconditioned(context, vectors, kind, solver)
    pairs = zip(vectors, moved, strict=True)  # one by one: in float64 all of them would take twice the room
    return torch.stack([one.double() @ other.double() for one, other in pairs]).clamp_min(0)


def _ratio(joint: Tensor, apart: Tensor) -> Tensor:
    return torch.where(apart > 0, joint / torch.where(apart > 0, apart, 1), 0)
