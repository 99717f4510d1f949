"""What random requests do to trusted points: analytic moments of every point, and simulated maxima over all of them.

Each trusted point j gives a functional, the margin m_j of the label that the victim predicts there. Its first-order
change by a request Z of m records is A_j = sum_{i in Z} a_i(m_j), a_i(m_j) = <B grad m_j, grad l_i(theta)>. Where Z is
a simple random sample of the n records,
    E A_j = m mean_i a_i(m_j),    Var A_j = m (1 - m/n) var_i a_i(m_j),    var_i with denominator n - 1.
At an optimum of sum_i l_i + (Lambda/2) ||theta||^2 sum_i a_i(m_j) is -Lambda <B grad m_j, theta>. Derived by us; the
moments are those of sampling without replacement (Cochran, Sampling Techniques, 1977, section 2.5 and 2.6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from data.examples import Examples
from data.randomness import generator
from defenses.defense import Context
from defenses.filters.effects import (
    Preconditioner,
    margin_changes,
    margin_gradients,
    preconditioned,
    predicted,
    summed_gradient,
)
from models.gradients import gradients_at_once, inner_products_many
from models.passes import models_at_once
from models.solver import Solver
from models.victim import Victim

NUMBERS = 2**22  # effects that are held at once
Made = TypeVar("Made")
# what was made for a victim, with what that depends on, and the tensors that this names
Known = tuple[tuple[object, ...], tuple[Tensor, ...], object]
_known: WeakKeyDictionary[Victim, list[Known]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Null:
    """What random requests of one size do: mean and standard deviation (t,) of A_j, and maxima (s,) of simulated ones.

    `labels` (t,) are those whose margins are looked at.
    """

    labels: Tensor
    mean: Tensor
    deviation: Tensor
    maxima: Tensor

    def standardised(self, effects: Tensor) -> Tensor:
        """(A_j - E A_j) / sd_j of effects (..., t); 0 for points that no record moves."""
        moves = self.deviation > 0
        return torch.where(moves, (effects - self.mean) / torch.where(moves, self.deviation, 1), 0)


def batch_effects(
    context: Context, points: Examples, labels: Tensor, requested: Examples, kind: Preconditioner, solver: Solver
) -> Tensor:
    """A_j (t,) of a batch of requested records on all points: one solve and one pass over the points."""
    step = preconditioned(context, summed_gradient(context.victim, requested)[None], kind, solver)[0]
    return margin_changes(context.victim, points, labels, step)


def stored(context: Context) -> Examples:
    """The stored records that are not gone."""
    records, forgotten = context.task.records, context.task.forgotten
    return records if forgotten is None else records[forgotten.to(records.y.device) == 0]


def record_effects(
    context: Context, points: Examples, labels: Tensor, kind: Preconditioner, solver: Solver
) -> Iterator[tuple[slice, Tensor]]:
    """a_i(m_j) of all n stored records that are not gone, as (c, n) for some c of the points after the other."""
    victim, records = context.victim, stored(context)
    size = min(models_at_once(victim), gradients_at_once(victim, points.x), max(1, NUMBERS // len(records)))
    for first in range(0, len(points), size):
        part = slice(first, first + size)
        directions = preconditioned(context, margin_gradients(victim, points[part], labels[part]), kind, solver)
        yield part, inner_products_many(victim.copies(1), records, directions)


def null_of(context: Context, points: Examples, size: int, sets: int, kind: Preconditioner, solver: Solver) -> Null:
    """The moments for requests of `size` records, and max_j |A_j - E A_j| / sd_j of `sets` simulated ones.

    The functionals of points near each other are correlated, which the simulation keeps. What is asked for takes no
    part in it. One solve for each point, and one pass of each over all records; memory does not grow with them.
    """
    labels = predicted(context.victim, points)
    n = len(stored(context))
    maxima = torch.zeros(sets, dtype=torch.float64, device=labels.device)
    means, deviations = [], []
    for _, found in record_effects(context, points, labels, kind, solver):
        effects = found.double()
        mean = size * effects.mean(1)
        deviation = (size * (1 - size / n)) ** 0.5 * effects.std(1)
        some = Null(labels, mean, deviation, maxima)
        for rows, drawn in random_sets(n, size, sets, max(1, NUMBERS // (len(effects) * size))):
            totals = effects[:, drawn.to(effects.device)].sum(-1).T  # (sets, points)
            maxima[rows] = torch.maximum(maxima[rows], some.standardised(totals).abs().amax(1))
        means.append(mean)
        deviations.append(deviation)
    return Null(labels, torch.cat(means), torch.cat(deviations), maxima)


def random_sets(n: int, size: int, sets: int, at_once: int) -> Iterator[tuple[slice, Tensor]]:
    """`sets` simple random samples of `size` of n records, always the same: which they are, and positions (k, size)."""
    rng = generator(0, "random sets")
    for first in range(0, sets, at_once):
        rows = slice(first, min(first + at_once, sets))
        # clones: a view would keep the whole permutation
        yield rows, torch.stack([torch.randperm(n, generator=rng)[:size].clone() for _ in range(rows.start, rows.stop)])


def once(context: Context, points: Examples | None, of: tuple[object, ...], make: Callable[[], Made]) -> Made:
    """What `make` gives, made once for a victim, its records, the `points`, and what it is made `of`."""
    task = context.task
    named = (None if points is None else points.x, task.records.x, task.records.y, task.forgotten)
    tensors = tuple(each for each in named if each is not None)
    depends = (*of, *((each.data_ptr(), each.shape, each._version) for each in tensors))
    known = _known.setdefault(context.victim, [])
    for before, _, found in known:
        if before == depends:
            return found  # type: ignore[return-value]
    made = make()
    known.append((depends, tensors, made))  # kept alive, no other tensor gets their places in memory
    return made
