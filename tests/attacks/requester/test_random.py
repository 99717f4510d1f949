from __future__ import annotations

import pytest
import torch

from attacks.requester.random import Random
from data.errors import UserError
from data.randomness import generator
from tests.attacks.checks import bed, closed
from unlearning.fine_tune import FineTune


def draw(seed: int, pool: torch.Tensor, budget: int = 10, goals: int = 5) -> list[tuple[int, ...]]:
    of = bed(0)
    targets = of.goals(of.targets(goals))
    services = [closed(of, FineTune(), 1)[0] for _ in targets]
    found = Random(budget=budget).craft(services, targets, of.attacker(pool), generator(seed, "attack"))
    return [each.request.indices for each in found]


def test_distinct_records_of_the_pool_and_another_draw_for_every_aim() -> None:
    pool = torch.arange(100, 200)
    draws = draw(0, pool)
    assert all(len(set(each)) == 10 and set(each) <= set(pool.tolist()) for each in draws)
    assert len({frozenset(each) for each in draws}) == len(draws)


def test_same_seed_same_draw() -> None:
    pool = torch.arange(50)
    assert draw(3, pool) == draw(3, pool) != draw(4, pool)


def test_every_record_is_drawn_about_equally_often() -> None:
    counts = torch.zeros(20)
    for seed in range(200):
        for each in draw(seed, torch.arange(20)):
            counts[list(each)] += 1
    # 1000 draws of half the pool: mean 500, standard deviation sqrt(1000/4) = 16
    assert (counts - 500).abs().max() < 5 * 16


def test_a_budget_beyond_the_pool_is_refused() -> None:
    with pytest.raises(UserError, match="larger than the pool"):
        draw(0, torch.arange(5), budget=6)
