"""Search by single swaps: exact counts of queries, and how near it comes to the best set that there is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.crafting.swaps import search
from data.errors import UserError
from data.randomness import generator

N, B = 60, 6


class Utility:
    """A quadratic utility of sets, -(w' u + w' Q w / 2), with the masks that were asked about."""

    def __init__(self, seed: int, interaction: float) -> None:
        rng = generator(seed, "utility")
        self.worth = torch.randn(N, generator=rng, dtype=torch.float64)
        self.pairs = interaction * torch.randn(N, N, generator=rng, dtype=torch.float64)
        self.asked: list[Tensor] = []

    def __call__(self, masks: Tensor) -> Tensor:
        w = masks.double()
        self.asked += list(masks)
        return -(w @ self.worth + ((w @ self.pairs) * w).sum(1) / 2)

    def forecast(self, seed: int, noise: float) -> tuple[Tensor, Tensor]:
        """A noisy forecast of the worths, falling, and where each candidate is."""
        drawn = torch.randn(N, generator=generator(seed, "noise"), dtype=torch.float64)
        gains, order = (self.worth + noise * drawn).sort(descending=True)
        return gains, order


@pytest.mark.parametrize("workers", [1, 6, 20])
@pytest.mark.parametrize("budget", [1, 7, 150])
def test_every_query_of_the_budget_is_spent_on_a_full_set(workers: int, budget: int) -> None:
    of = Utility(0, 0.1)
    gains, _ = of.forecast(0, 1.0)
    best, value = search(of, gains, B, budget, workers, 1e9)
    assert len(of.asked) == budget
    assert {int(mask.sum()) for mask in of.asked} == {B}
    mask = torch.zeros(N, dtype=torch.bool).index_fill(0, torch.tensor(best), True)
    assert float(of(mask[None])) == pytest.approx(value)


def test_an_additive_utility_is_solved() -> None:
    """A swap measures what two candidates differ by: few queries beyond the candidates that matter."""
    early, late = [], []
    for seed in range(5):
        of, best = Utility(seed, 0.0), -float(Utility(seed, 0.0).worth.topk(B).values.sum())
        gains, order = of.forecast(seed, 0.5)
        ranked = order.argsort()
        for budget, shares in ((80, early), (300, late)):
            _, value = search(lambda masks, of=of, ranked=ranked: of(masks[:, ranked]), gains, B, budget, 6, 0.0)  # type: ignore[misc]
            shares.append(value / best)
    print("shares of the optimum", early, late)
    assert min(early) >= 0.95
    assert min(late) == pytest.approx(1.0)


def test_comes_near_greedy_search_that_looks_at_everything() -> None:
    """With interactions, without a forecast: 600 queries against sets that no swap of 1,000s improves."""
    shares = []
    for seed in range(5):
        of = Utility(seed, 0.2)
        _, value = search(of, torch.zeros(N), B, 600, 20, 0.0)
        shares.append(value / _local_optimum(of))
    print("shares of the local optimum", shares)
    assert sum(shares) / 5 >= 0.9


def _local_optimum(of: Utility) -> float:
    chosen = torch.zeros(N, dtype=torch.bool).index_fill(0, torch.arange(B), True)
    while True:
        rows = [
            chosen.clone().index_fill_(0, out, False).index_fill_(0, new, True)
            for out in chosen.nonzero() for new in (~chosen).nonzero()
        ]  # fmt: skip
        values = of(torch.stack(rows))
        if float(values.min()) >= float(of(chosen[None])) - 1e-9:
            return float(of(chosen[None]))
        chosen = rows[int(values.argmin())]


def test_where_a_full_set_does_harm_a_shorter_one_is_found() -> None:
    """A wall beyond a sum of 1.5, as of a label that is lost; sets may be filled up by what they have room for."""
    of = Utility(0, 0.0)
    gains, order = of.worth.sort(descending=True)

    def walled(masks: Tensor) -> Tensor:
        total = masks.double() @ of.worth[order]
        return -total + 50 * (total - 1.5).clamp_min(0)

    best, value = search(walled, gains, B, 100, 6, 0.0)
    assert 1 <= len(best) <= B
    assert -1.5 <= value <= -1.35


def test_a_pool_that_is_the_request_is_asked_about_once() -> None:
    of = Utility(0, 0.0)
    assert search(of, of.worth, N, 10, 4, -1e9)[0] is not None
    assert len(of.asked) == 10  # all of it, and its beginnings, which help more than nothing does
    of.asked.clear()
    search(of, of.worth.abs(), N, 10, 4, 1e9)
    assert len(of.asked) == 1


def test_a_value_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UserError, match="finite"):
        search(lambda masks: torch.full((len(masks),), torch.nan), torch.zeros(N), B, 10, 4, 0.0)
