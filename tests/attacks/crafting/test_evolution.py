import itertools
import random

import numpy as np
import pytest
import torch

from attacks.crafting.evolution import search
from data.errors import UserError

NAMED = ("DoubleFastGADiscreteOnePlusOne", "FastGADiscreteOnePlusOne", "DiscreteOnePlusOne", "CMA", "DE", "TBPSA")


def utility(seed: int, n: int):
    """A quadratic utility of sets: minus the values of the members plus what pairs of them cost."""
    generator = torch.Generator().manual_seed(seed)
    worth = torch.randn(n, generator=generator, dtype=torch.float64)
    pairs = 0.3 * torch.randn(n, n, generator=generator, dtype=torch.float64)

    def objective(masks: torch.Tensor) -> torch.Tensor:
        x = masks.double()
        return ((x @ pairs) * x).sum(1) - x @ worth

    return objective


def greedy_with_swaps(objective, n: int, b: int) -> float:
    """The lowest value that greedy growth followed by single swaps reaches."""

    def value(chosen):
        mask = torch.zeros(1, n, dtype=torch.bool)
        mask[0, list(chosen)] = True
        return float(objective(mask))

    chosen: set[int] = set()
    while len(chosen) < b:
        chosen = min((chosen | {i} for i in range(n) if i not in chosen), key=value)
    best = value(chosen)
    while True:
        swaps = [chosen - {i} | {j} for i in chosen for j in range(n) if j not in chosen]
        better = min(swaps, key=value)
        if value(better) >= best:
            return best
        chosen, best = better, value(better)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_search_beats_random_requests_and_nears_greedy_with_swaps():
    n, b, budget = 30, 5, 400
    found, drawn, reference = [], [], []
    for seed in range(4):
        objective = utility(seed, n)
        found.append(search(objective, n, b, budget, generator(seed)).value)
        scores = torch.rand(budget, n, generator=generator(seed + 50))
        masks = torch.zeros(budget, n, dtype=torch.bool).scatter_(1, scores.topk(b).indices, True)
        drawn.append(float(objective(masks).min()))
        reference.append(greedy_with_swaps(objective, n, b))
    assert all(f < d for f, d in zip(found, drawn, strict=True))
    assert np.mean(found) < 0.85 * np.mean(reference)


def test_a_small_problem_is_solved_exactly():
    objective = utility(7, 8)
    every = torch.zeros(28, 8, dtype=torch.bool)
    for row, pair in enumerate(itertools.combinations(range(8), 2)):
        every[row, list(pair)] = True
    assert search(objective, 8, 2, 300, generator(0)).value == pytest.approx(float(objective(every).min()))


@pytest.mark.parametrize(("budget", "workers"), [(23, 1), (23, 8), (5, 8), (1, 1)])
def test_exactly_the_budget_is_evaluated_a_generation_at_a_time(budget, workers):
    sizes = []
    objective = utility(0, 12)

    def counted(masks):
        assert masks.dtype == torch.bool
        assert (masks.sum(1) == 3).all()
        sizes.append(len(masks))
        return objective(masks)

    trace = search(counted, 12, 3, budget, generator(0), workers=workers)
    full, rest = divmod(budget, workers)
    assert sizes == [workers] * full + [rest] * (rest > 0)
    assert len(trace.values) == len(trace.best_so_far) == budget
    assert trace.value == float(trace.values.min()) == float(trace.best_so_far[-1])
    assert float(objective(trace.mask[None])) == trace.value
    assert torch.equal(trace.best_so_far, trace.values.cummin(0).values)


@pytest.mark.parametrize("optimiser", NAMED)
def test_runs_are_repeatable_and_leave_global_randomness_alone(optimiser):
    objective = utility(1, 12)
    before = np.random.get_state()[1].copy(), np.random.get_state()[2], random.getstate(), torch.get_rng_state()  # noqa: NPY002
    first = search(objective, 12, 3, 60, generator(5), optimiser, workers=5)
    after = np.random.get_state()[1], np.random.get_state()[2], random.getstate(), torch.get_rng_state()  # noqa: NPY002
    assert np.array_equal(before[0], after[0])
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])
    np.random.seed(99)  # noqa: NPY002  (what happened before must not matter)
    assert torch.equal(search(objective, 12, 3, 60, generator(5), optimiser, workers=5).values, first.values)
    assert not torch.equal(search(objective, 12, 3, 60, generator(6), optimiser, workers=5).values, first.values)


@pytest.mark.parametrize("optimiser", NAMED)
def test_initial_scores_are_tried_first(optimiser):
    objective = utility(2, 12)
    initial = torch.randn(12, generator=generator(0)) * 10
    top = torch.zeros(1, 12, dtype=torch.bool)
    top[0, initial.clamp(-3, 3).argsort(descending=True, stable=True)[:3]] = True
    trace = search(objective, 12, 3, 20, generator(0), optimiser, initial=initial)
    assert float(trace.values[0]) == float(objective(top))


def test_mistakes_are_named():
    objective = utility(0, 5)
    with pytest.raises(UserError, match="DiscreteOnePlusOne"):
        search(objective, 5, 2, 10, generator(0), "Genetic")
    with pytest.raises(UserError, match="between 1 and 5"):
        search(objective, 5, 6, 10, generator(0))
    with pytest.raises(UserError, match="at least 1"):
        search(objective, 5, 2, 0, generator(0))
    with pytest.raises(UserError, match="5 finite initial scores"):
        search(objective, 5, 2, 10, generator(0), initial=torch.zeros(4))
    with pytest.raises(UserError, match="NaN"):
        search(lambda masks: masks.sum(1) * float("nan"), 5, 2, 10, generator(0))
