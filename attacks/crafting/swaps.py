"""Black-box search for the best b of n candidates by single swaps, from which it learns what each of them is worth.

Greedy search with swaps. Every query that differs from the best set in one swap measures a difference of two worths
nearly without error, where a set that differs in many says little of each; and the forecast says which to try first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.crafting.zeroth_order import evaluate

PREFIXES = 10  # where the first set does not help, as many of its beginnings are tried, itself included


class _Asked:
    """The objective of sets of positions, as many as the budget allows, with the best set and its loss."""

    def __init__(self, objective: Callable[[Tensor], Tensor], n: int, budget: int) -> None:
        self.objective, self.n, self.left = objective, n, budget
        self.best: list[int] = []
        self.loss = float("inf")

    def __call__(self, sets: Sequence[Sequence[int]]) -> Tensor:
        """Losses (m,) of the first m of the `sets`, until the budget is spent; the best one is remembered."""
        sets = sets[: self.left]
        rows = torch.zeros(len(sets), self.n, dtype=torch.bool)
        for row, chosen in zip(rows, sets, strict=True):
            row[list(chosen)] = True
        self.left -= len(sets)
        losses = evaluate(self.objective, rows).to("cpu", torch.float64)
        for chosen, loss in zip(sets, losses.tolist(), strict=True):
            if loss < self.loss:
                self.best, self.loss = list(chosen), loss
        return losses


def search(
    objective: Callable[[Tensor], Tensor], gains: Tensor, b: int, budget: int, workers: int, empty: float
) -> tuple[list[int], float]:
    """Minimise `objective`, masks bool (m, n) -> values (m,), over sets of at most `b` of n candidates.

    `gains` (n,), falling, is how much each candidate is forecast to lower it, up to a positive scale, and `empty` its
    value where nothing is chosen. The `b` first are asked about at first, and where these do not lower it, their
    beginnings. Then up to `workers` swaps at a time, and additions where the set is not full: those worth least go, and
    the most promising come that were not tried with this set before. What a swap shows beyond what was forecast is
    shared between the two by how uncertain the worth of each is (a Kalman filter that takes worths for independent).
    The set worth most is asked about after each generation. `budget` masks are asked about, fewer where n = b. Returns
    the best set of positions, and its value.

    Raises UserError for a value that is not finite.
    """
    ask = _Asked(objective, len(gains), budget)
    worth = _scaled(gains, b, empty - float(ask([range(b)])[0]))
    if ask.loss >= empty and ask.left > 0:
        ask([range(length) for length in sorted({-(-b * k // PREFIXES) for k in range(1, PREFIXES)} - {b})])
    variance, tried = torch.ones_like(worth), torch.zeros(len(worth), dtype=torch.bool)
    while ask.left > 0 and len(worth) > b:
        base, loss = ask.best, ask.loss
        outside = torch.ones_like(tried).index_fill(0, torch.tensor(base), False)
        if bool(tried[outside].all()):
            tried = torch.zeros_like(tried)
        fresh = worth.masked_fill(~outside | tried, -torch.inf)
        count = min(workers, ask.left, int((outside & ~tried).sum()))
        coming = fresh.argsort(descending=True, stable=True)[:count].tolist()
        members = sorted(base, key=worth.tolist().__getitem__)
        going: list[int | None] = [None, *members, *[None] * workers] if len(base) < b else [*members]
        pairs = list(zip(coming, going, strict=False))
        losses = ask([[*(each for each in base if each != out), new] for new, out in pairs])
        for (new, out), seen in zip(pairs, losses.tolist(), strict=True):
            _learn(worth, variance, new, out, loss - seen)
        tried[[new for new, _ in pairs]] = True
        most = worth.argsort(descending=True, stable=True)[: len(base)].tolist()
        if ask.left > 0 and set(most) not in (set(base), set(ask.best)):
            ask([most])
        if ask.loss < loss:
            tried = torch.zeros_like(tried)
    return ask.best, ask.loss


def _scaled(gains: Tensor, b: int, gain: float) -> Tensor:
    """Forecasts in units of the objective, if the first set gained `gain`; all 0 where it gained nothing."""
    forecast = gains.double()
    total = float(forecast[:b].sum())
    return forecast * (gain / total if gain > 0 and total > 0 else 0.0)


def _learn(worth: Tensor, variance: Tensor, new: int, out: int | None, gain: float) -> None:
    """Change in place what is thought of the candidate that came, and of the one that went, if any, after `gain`."""
    if out is None:
        worth[new], variance[new] = gain, 0.5 * variance[new]
        return
    surprise = gain - float(worth[new] - worth[out])
    share = float(variance[new] / (variance[new] + variance[out]))
    worth[new] += share * surprise
    worth[out] -= (1 - share) * surprise
    variance[new] *= 1 - share
    variance[out] *= share
