from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.crafting.attack import AttackGoal
from attacks.crafting.functionals import Confidence, ConformalSetSize, Entropy, LogitGap
from attacks.crafting.norm_cap import below_norm_quantile
from attacks.crafting.objective import UncertaintyObjective
from attacks.crafting.selection import Search, prefix_lengths, project, select
from attacks.crafting.white_box import WhiteBoxObjective
from attacks.requester.one_shot_influence import OneShotInfluence
from data.randomness import generator
from tests.attacks.checks import OVER, UNDER, bed, opened
from unlearning.procedure import as_weights
from unlearning.second_order import SecondOrder

weights = st.lists(st.floats(-3, 3), min_size=2, max_size=12)


@given(weights, st.floats(0.1, 8))
def test_projection_meets_the_optimality_conditions(values: list[float], budget: float) -> None:
    """w = clip(v - mu, 0, 1) with mu >= 0, and mu > 0 only where the budget binds: the KKT conditions."""
    v = torch.tensor([values], dtype=torch.float64)
    w = project(v, budget)
    assert (w >= 0).all()
    assert (w <= 1).all()
    assert w.sum() <= budget + 1e-9
    inner = (w > 1e-9) & (w < 1 - 1e-9)
    if v.clamp(0, 1).sum() <= budget:
        assert torch.equal(w, v.clamp(0, 1))
        return
    assert abs(float(w.sum()) - budget) < 1e-9
    # mu from any inner coordinate; without one it lies between the smallest v - 1 at 1 and the largest v at 0
    low = float(v[w <= 1e-9].max()) if (w <= 1e-9).any() else 0.0
    high = float(v[w >= 1 - 1e-9].min()) - 1 if (w >= 1 - 1e-9).any() else float("inf")
    mu = float((v - w)[inner].mean()) if inner.any() else max(low, 0.0)
    assert mu >= -1e-9
    assert mu >= low - 1e-8
    assert mu <= high + 1e-8
    assert ((v - w)[inner] - mu).abs().max() < 1e-8 if inner.any() else True


@given(weights, st.floats(0.1, 4), st.integers(0, 10**6))
def test_no_feasible_point_is_nearer(values: list[float], budget: float, seed: int) -> None:
    v = torch.tensor([values], dtype=torch.float64)
    w = project(v, budget)
    other = torch.rand(200, v.shape[1], generator=generator(seed, "points"), dtype=torch.float64)
    other = torch.cat([other, (w + 0.05 * (other - 0.5)).clamp(0, 1)])
    other = other * (budget / other.sum(1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
    assert ((other - v).norm(dim=1) >= (w - v).norm() - 1e-9).all()
    assert (project(w, budget) - w).abs().max() < 1e-9


def test_rows_are_projected_separately() -> None:
    v = torch.randn(5, 9, generator=generator(0, "v"), dtype=torch.float64)
    assert torch.equal(project(v, 2), torch.cat([project(row[None], 2) for row in v]))


@given(st.integers(1, 60), st.integers(0, 12))
def test_prefix_lengths_rise_to_the_budget(budget: int, count: int) -> None:
    lengths = prefix_lengths(budget, count)
    assert lengths[-1] == budget
    assert lengths == sorted(set(lengths))
    assert 1 <= lengths[0] <= budget
    assert len(lengths) <= max(count, 1) + 1
    if count > 1:
        assert lengths[0] == 1


def rng() -> torch.Generator:
    return generator(0, "s")


def searched(search: Search, keep: float = 5.0, pool: Tensor | None = None):  # type: ignore[no-untyped-def]
    of = bed(1)
    service, attacker = opened(of), of.attacker(pool)
    goals = of.goals(of.in_band(*UNDER[1:], 4), 1)
    objective = UncertaintyObjective(Confidence(), keep, 1.0, 0.05)
    white_box = WhiteBoxObjective(service, goals, attacker.reference, generator(1, "s"), 1)
    return select(white_box, objective, attacker, search), service


def test_more_search_is_never_worse() -> None:
    """Each stage keeps the best set seen; every run is deterministic, so a longer one contains a shorter one."""
    stages = [Search(12, 2, 0.5, 0), Search(12, 2, 0.5, 6), Search(12, 2, 0.5, 6, 2, 3)]
    results = [searched(stage)[0] for stage in stages]
    for shorter, longer in pairwise(results):
        assert all(b.objective <= a.objective for a, b in zip(shorter, longer, strict=True))
        assert all(b.curve[: len(a.curve)] == a.curve for a, b in zip(shorter, longer, strict=True))
    assert any(c.objective < a.objective for a, c in zip(results[0], results[2], strict=True))


def test_curve_falls_and_calls_are_counted() -> None:
    found, service = searched(Search(12, 3, 0.5, 4))
    lengths = [k for k in prefix_lengths(12, 4) if k < 12]
    for each in found:  # once more where the one-shot set is not the first rounding
        assert len(each.curve) - 1 - 3 - len(lengths) in (0, 1)
        assert all(b <= a for a, b in zip(each.curve, each.curve[1:], strict=False))
        assert each.curve[-1] == each.objective
    # every set that was tried, and two relaxed evaluations between the three roundings
    assert service.meter.operator_calls == sum(len(each.curve) - 1 + 2 for each in found)


@given(
    st.integers(0, 3),
    st.sampled_from([OVER, UNDER]),
    st.integers(1, 25),
    st.sampled_from([0.0, 1.0, 5.0, 50.0]),
    st.sampled_from([0.0, 1.0, 20.0]),
    st.sampled_from([0.05, 1.0, 3.0]),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from([Confidence(), Entropy(), LogitGap(), ConformalSetSize()]),
    st.sampled_from([None, 0.7]),
)
@settings(max_examples=40, deadline=None)
def test_never_worse_than_one_shot_influence(  # type: ignore[no-untyped-def]
    bed_seed, side, budget, keep, keep_reference, kappa, feasible_first, targets, functional, cap
) -> None:
    """Over random games: the result's rank is at most that of the one-shot request, where that request is feasible."""
    of = bed(bed_seed)
    service, attacker = opened(of, SecondOrder()), of.attacker()
    labels = of.victim.logits(of.test.x).argmax(-1)
    positions = of.in_band(*side[1:], 3 * targets).split(targets)
    goals = [AttackGoal(of.test.x[each], labels[each], side[0]) for each in positions]
    objective = UncertaintyObjective(functional, keep, keep_reference, kappa, feasible_first)
    capped = attacker if cap is None else below_norm_quantile(service, attacker, cap, budget)
    white_box = WhiteBoxObjective(service, goals, attacker.reference, rng(), 1)
    found = select(white_box, objective, capped, Search(budget, 1, 0.5, 0))
    one_shot = OneShotInfluence(budget=budget, functional=functional, norm_cap=cap)
    requests = [each.request for each in one_shot.craft([service], goals, attacker, rng())]
    predictions = white_box.after(as_weights(requests, of.task.records), torch.arange(len(goals)))
    ranks, feasible = objective.rank(predictions), objective.feasible(predictions)
    for each, rank, counts in zip(found, ranks.tolist(), feasible.tolist(), strict=True):
        assert not counts or each.objective <= rank + 1e-9 * abs(rank)


def test_an_infeasible_one_shot_set_does_not_count() -> None:
    """With labels to keep and a large budget it costs labels; the result keeps them all the same."""
    of, budget = bed(1), 60
    service, attacker, goals = opened(of), of.attacker(), of.goals(of.in_band(0.4, 0.6, 4), 1)
    requests = [each.request for each in OneShotInfluence(budget=budget).craft([service], goals, attacker, rng())]
    objective = UncertaintyObjective(Confidence(), 5.0, 1.0, 0.05)
    white_box = WhiteBoxObjective(service, goals, attacker.reference, rng(), 1)
    owner = torch.arange(len(goals))
    assert not objective.feasible(white_box.after(as_weights(requests, of.task.records), owner)).any()
    found = select(white_box, objective, attacker, Search(budget, 2, 0.5, 7))
    chosen = white_box.after(as_weights([each.request for each in found], of.task.records), owner)
    assert objective.feasible(chosen).all()


def test_requests_stay_in_the_pool() -> None:
    pool = torch.arange(5, 300, 4)
    for each in searched(Search(12, 2, 0.5, 4, 1, 2), pool=pool)[0]:
        assert set(each.request.indices) <= set(pool.tolist())
        assert len(set(each.request.indices)) == len(each.request) <= 12
