"""White-box selection of deletions: relaxed search, rounding, prefix search and refinement, many goals at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackResult
from attacks.crafting.curvatures import Slopes, services_of
from attacks.crafting.objective import Objective
from attacks.crafting.white_box import WhiteBoxObjective
from unlearning.procedure import Request


def project(weights: Tensor, budget: float | Tensor, iterations: int = 60) -> Tensor:
    """Projection of rows onto the capped simplex {0 <= w <= 1, sum w <= budget}: clip(w - mu, 0, 1) by bisection.

    `budget` is one for all rows, or (m, 1).
    """
    low = torch.zeros_like(weights[:, :1])
    high = weights.amax(dim=1, keepdim=True).clamp_min(0)
    for _ in range(iterations):
        middle = (low + high) / 2
        over = (weights - middle).clamp(0, 1).sum(1, keepdim=True) > budget
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    fits = weights.clamp(0, 1).sum(1, keepdim=True) <= budget
    return (weights - torch.where(fits, 0.0, high)).clamp(0, 1)


def prefix_lengths(budget: int, count: int) -> list[int]:
    """About `count` lengths from 1 to `budget`, growing geometrically, without repetition."""
    if count < 1:
        return [budget]
    spaced = torch.logspace(0, torch.log10(torch.tensor(float(budget))).item(), count) if count > 1 else [float(budget)]
    return sorted({min(budget, max(1, round(float(length)))) for length in spaced} | {budget})


Dampings = tuple[Annotated[float, Field(gt=0)], ...]


@dataclass(frozen=True)
class Search:
    """How much is searched: relaxed steps of size `lr`, `prefixes` of the final order, rounds of single additions.

    There is at least one step, with which the one-shot influence set is tried. `dampings` of the curvature are tried
    beside the procedure's own where its slopes are approximate.
    """

    budget: int
    steps: int
    lr: float
    prefixes: int
    rounds: int = 0
    width: int = 0
    dampings: Sequence[float] = ()


class _Best:
    """The best feasible set seen for every goal. The empty set is where it starts, and it is feasible."""

    def __init__(self, white_box: WhiteBoxObjective, objective: Objective) -> None:
        self.white_box, self.objective = white_box, objective
        self.start = white_box.now()
        self.value = objective.rank(self.start)
        shape = len(white_box.labels), len(white_box.service.task.records)
        self.selected = torch.zeros(shape, dtype=torch.bool, device=self.value.device)
        self.curves: list[list[float]] = [[float(value)] for value in self.value]

    def try_sets(self, sets: Tensor, owner: Tensor) -> Tensor:
        """Ranks (M,) of sets (M, n) of goals `owner` (M,) by the true procedure; what is better is remembered."""
        predictions = self.white_box.after(sets.to(self.white_box.dtype), owner)
        ranks, feasible = self.objective.rank(predictions), self.objective.feasible(predictions)
        for row, goal in enumerate(owner.tolist()):
            if feasible[row] and ranks[row] < self.value[goal]:
                self.value[goal], self.selected[goal] = ranks[row], sets[row]
            self.curves[goal].append(float(self.value[goal]))
        return ranks


def select(
    white_box: WhiteBoxObjective, objective: Objective, attacker: Attacker, search: Search
) -> list[AttackResult]:
    """The best feasible deletion set of at most `budget` records for every goal, judged by the true procedure.

    Sets are compared by the objective's rank among feasible ones only (the empty set is feasible, whatever it is
    worth), through the same dropout masks. The one-shot influence set, the top `budget` by the slopes at w = 0 of the
    objective without its penalties, is always among them: no result has a higher rank than that set where it is
    feasible; where it is not, as when it costs a label that must be kept, it does not count. So are those through
    other curvatures, of which every goal goes on with the one whose set has the lowest rank, feasible or not. Records
    are named from the attacker's pool.
    """
    best, allowed = _Best(white_box, objective), attacker.may_name(len(white_box.service.task.records))
    owner = torch.arange(len(best.value), device=best.value.device)
    weights = torch.zeros(best.selected.shape, dtype=white_box.dtype, device=best.value.device)
    slopes_at = _sharpest(best, allowed, search)
    slopes = slopes_at(weights, objective, white_box.start).masked_fill(~allowed, 0.0)
    first = one_shot_sets(best, slopes, allowed, search.budget) if len(slopes_at.services) == 1 else None
    for step in range(search.steps):
        largest = slopes.abs().amax(1, keepdim=True).clamp_min(torch.finfo(white_box.dtype).tiny)
        weights = project((weights - search.lr * slopes / largest).masked_fill(~allowed, 0.0), search.budget)
        sets = _first(_order(weights, slopes), slopes, search.budget)
        whose = owner
        if step == 0 and first is not None:
            new = (sets != first).any(1)
            sets, whose = torch.cat([sets, first[new]]), torch.cat([owner, owner[new]])
        best.try_sets(sets, whose)
        if step + 1 < search.steps:
            slopes = slopes_at(weights, objective, white_box.service.unlearn).masked_fill(~allowed, 0.0)
    order = _order(weights, slopes)
    lengths = (
        [k for k in prefix_lengths(search.budget, search.prefixes) if k < search.budget] if search.prefixes else []
    )
    if lengths:
        sets = torch.cat([_first(order, slopes, length) for length in lengths])
        best.try_sets(sets, owner.repeat(len(lengths)))
    tried = torch.zeros_like(best.selected)
    for _ in range(search.rounds):
        _add_one(best, order, slopes, search, tried)
    chosen = [_by_order(best.selected[goal], order[goal]) for goal in range(len(order))]
    return [AttackResult(Request(c), float(best.value[i]), tuple(best.curves[i])) for i, c in enumerate(chosen)]


def _sharpest(best: _Best, allowed: Tensor, search: Search) -> Slopes:
    """Slopes through the curvature whose one-shot set does best for each goal; if there are more, all are tried."""
    white_box, plain = best.white_box, best.objective.without_penalties()
    services = services_of(white_box.service, search.dampings)
    chosen = torch.zeros(len(best.value), dtype=torch.long, device=best.value.device)
    if len(services) == 1:
        return Slopes(white_box, services, chosen)
    nothing = torch.zeros(best.selected.shape, dtype=white_box.dtype, device=best.value.device)
    sets = [
        _top(Slopes(white_box, services, chosen + k)(nothing, plain, white_box.start), allowed, search.budget)
        for k in range(len(services))
    ]
    owner = torch.arange(len(chosen), device=chosen.device).repeat(len(services))
    ranks = best.try_sets(torch.cat(sets), owner).reshape(len(services), -1)
    return Slopes(white_box, services, ranks.argmin(0))


def one_shot_sets(best: _Best, slopes: Tensor, allowed: Tensor, budget: int) -> Tensor:
    """The one-shot influence set of every goal as boolean rows (m, n); `slopes` are the objective's own at w = 0.

    These serve where no penalty acts at the victim.
    """
    white_box, objective = best.white_box, best.objective
    plain = objective.without_penalties()
    if not torch.equal(objective.loss(best.start), plain.loss(best.start)):
        slopes = white_box.slopes(torch.zeros_like(slopes), plain, white_box.start)
    return _top(slopes, allowed, budget)


def _top(slopes: Tensor, allowed: Tensor, budget: int) -> Tensor:
    return torch.zeros_like(slopes, dtype=torch.bool).scatter(1, most_useful(slopes, allowed, budget), True)


def most_useful(slopes: Tensor, allowed: Tensor, budget: int) -> Tensor:
    """The `budget` allowed records with the smallest slopes of every row, in their order, (m, budget)."""
    return slopes.masked_fill(~allowed, torch.inf).argsort(dim=1, stable=True)[:, :budget]


def _order(weights: Tensor, slopes: Tensor) -> Tensor:
    """Records by falling weight, ties by rising slope (most useful first), (m, n)."""
    by_slope = slopes.argsort(dim=1, stable=True)
    return by_slope.gather(1, weights.gather(1, by_slope).argsort(dim=1, descending=True, stable=True))


def _first(order: Tensor, slopes: Tensor, length: int) -> Tensor:
    """The first `length` records of each order that lower the loss (negative slope), as boolean rows (m, n)."""
    head = order[:, :length]
    return torch.zeros_like(slopes, dtype=torch.bool).scatter(1, head, slopes.gather(1, head) < 0)


def _add_one(best: _Best, order: Tensor, slopes: Tensor, search: Search, tried: Tensor) -> None:
    """Try to add one more record to every set that is not full: the next `width` in order not tried with it before."""
    sets, owner = [], []
    for goal in range(len(order)):
        current = best.selected[goal]
        if int(current.sum()) >= search.budget:
            continue
        new = order[goal][~(current | tried[goal])[order[goal]] & (slopes[goal][order[goal]] < 0)][: search.width]
        tried[goal, new] = True
        for record in new:
            grown = current.clone()
            grown[record] = True
            sets.append(grown)
            owner.append(goal)
    if sets:
        best.try_sets(torch.stack(sets), torch.tensor(owner, device=order.device))


def _by_order(selected: Tensor, order: Tensor) -> tuple[int, ...]:
    return tuple(order[selected[order]].tolist())
