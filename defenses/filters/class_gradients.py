"""How unlike the gradients of its class a requested record's gradient is: the class's mean, or its medoid."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from data.examples import Examples
from defenses.defense import Context
from models.gradients import (
    gradient_norms,
    gradients_at_once,
    inner_products,
    per_example_gradients,
    weighted_gradient,
)
from models.victim import Victim

_norms: WeakKeyDictionary[Victim, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def from_class_mean(context: Context, requests: Tensor) -> Tensor:
    """1 - cos(g_i, mean gradient of class y_i over the stored records outside the request), (m,)."""
    records, requested = context.task.records, context.unlearned(requests)
    outside, present = outside_of(context, requests), requested.y.unique()
    rows = torch.stack([(outside & (records.y == label)).to(records.x.dtype) for label in present])
    means = weighted_gradient(context.victim, records, rows / rows.sum(1, keepdim=True).clamp_min(1))
    return dissimilarity(context.victim, requested, present, means)


def from_class_medoid(context: Context, requests: Tensor) -> Tensor:
    """1 - cos(g_i, gradient of the medoid of class y_i), (m,); a class without a record left is unlike everything: 1.

    See `class_medoids`.
    """
    requested = context.unlearned(requests)
    present = requested.y.unique()
    medoids = class_medoids(context, requests, present)
    gradients = context.victim.flat().new_zeros(len(present), context.victim.flat().numel())
    known = medoids >= 0
    if bool(known.any()):
        gradients[known] = per_example_gradients(context.victim, context.task.records[medoids[known]])
    return dissimilarity(context.victim, requested, present, gradients)


def class_medoids(context: Context, requests: Tensor, labels: Tensor) -> Tensor:
    """For each of `labels` (k,) the position of its medoid among the stored records outside the request; -1 for none.

    The medoid is the record i of the class with the least sum over its records j of 1 - cos(g_i, g_j). With the sum u
    of the class's unit gradients that is the largest <g_i, u> / ||g_i||: no pair of gradients is formed.
    """
    records, victim, outside = context.task.records, context.victim, outside_of(context, requests)
    norms = _norms_of(victim, records)
    usable = outside & (norms > 0)
    scale = torch.where(usable, 1 / norms, 0)
    rows = torch.stack([torch.where(records.y == label, scale, 0) for label in labels])
    found = torch.full_like(labels, -1)
    for k, total in enumerate(weighted_gradient(victim, records, rows)):
        own = (usable & (records.y == labels[k])).nonzero()[:, 0]
        if len(own) > 0:
            found[k] = own[(inner_products(victim, records[own], total) / norms[own]).argmax()]
    return found


def outside_of(context: Context, requests: Tensor) -> Tensor:
    """Which stored records (n,) are neither requested nor gone already."""
    records = context.task.records
    outside = torch.ones(len(records), dtype=torch.bool, device=records.y.device)
    if context.task.forgotten is not None:
        outside &= context.task.forgotten.to(outside.device) == 0
    outside[requests] = False
    return outside


def dissimilarity(victim: Victim, requested: Examples, labels: Tensor, gradients: Tensor) -> Tensor:
    """1 - cos(g_i, gradient of class y_i) (m,), of `gradients` (k, p) for the sorted `labels` (k,) that occur."""
    row_of, size = torch.searchsorted(labels, requested.y), gradients_at_once(victim, requested.x)
    scores = []
    for first in range(0, len(requested), size):
        part = slice(first, first + size)
        own = per_example_gradients(victim, requested[part])
        scores.append(1 - torch.nn.functional.cosine_similarity(own, gradients[row_of[part]], dim=1))
    return torch.cat(scores)


def _norms_of(victim: Victim, records: Examples) -> Tensor:
    """||g_i|| (n,) of all records, which are computed once for a victim: no request changes them."""
    known = _norms.get(victim)
    if known is None or known[0] is not records.x:
        known = _norms[victim] = records.x, gradient_norms(victim, records)
    return known[1]
