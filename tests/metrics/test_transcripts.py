from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from data.randomness import generator
from metrics.margins import margins
from metrics.transcripts import (
    Errors,
    Gaussian,
    RatioTest,
    Worlds,
    coupling,
    cross_fitted,
    discriminating,
    fitted,
    gaussian,
    held_out,
    ledoit_wolf,
    log_odds,
)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "transcripts"), dtype=torch.float64)


def in_sample(worlds: Worlds, draws: int, rng: torch.Generator) -> float:
    """J of a test on samples of the Gaussians that it was fitted on. It is here to show that it is biased, only."""
    test = fitted(worlds)
    drawn = [
        world.mean + world.root * torch.randn(draws, len(world.mean), generator=rng, dtype=torch.float64)
        for world in (test.honest, test.dishonest)
    ]
    return held_out(test, Worlds(*drawn)).advantage


@pytest.mark.parametrize(("queries", "bias"), [(1, 0.12), (10, 0.42), (50, 0.79)])
def test_errors_of_the_fit_itself_tell_identical_worlds_apart_and_held_out_ones_do_not(
    queries: int, bias: float
) -> None:
    """32 models in either world, 20 repetitions: what is in sample reads .12, .42, .79 where there is nothing to tell.

    Given the fit, held-out J has mean 0 and, counted on 1,000 + 1,000 models, variance at most 1/2000; the mean of 20
    has a standard error of at most .005, six of which are the tolerance. In sample the standard deviation of J is .06
    at 1 and 10 queries and .03 at 50; four standard errors of the mean of 20 are at most .055.
    """
    inside, outside = [], []
    for repetition in range(20):
        models = normal(repetition, 2 * 1032, queries)
        fit, others = Worlds(models[:32], models[32:64]), Worlds(models[64:1064], models[1064:])
        inside.append(in_sample(fit, 2000, generator(repetition, "in sample")))
        outside.append(held_out(fitted(fit), others).advantage)
    assert abs(sum(inside) / 20 - bias) < 0.06
    assert abs(sum(outside) / 20) < 0.03


@pytest.mark.parametrize("choose", [None, 5])
@pytest.mark.parametrize("sizes", [(32, 32), (11, 21)])
def test_cross_fitted_errors_of_identical_worlds_have_advantage_zero(
    sizes: tuple[int, int], choose: int | None
) -> None:
    """Groups of unequal size too, as those that know a record and those that do not.

    Models that one fold judges together make the variance of J larger than binomial, so the standard error is that of
    the repetitions: 4 of them are the tolerance.
    """
    found = torch.tensor(
        [cross_fitted(Worlds(*normal(i, sum(sizes), 20).split(sizes)), 4, choose=choose).advantage for i in range(200)]
    )
    assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(200)
    assert float(found.std()) < 0.35


@pytest.mark.parametrize("covariance", ["diagonal", "ledoit_wolf"])
def test_with_the_true_gaussians_errors_are_those_of_the_closed_form(covariance: str) -> None:
    """Means d apart in the norm of the covariance: either error is Phi(-d/2)."""
    root = torch.eye(3, dtype=torch.float64) if covariance == "diagonal" else normal(1, 3, 3).tril() + 2 * torch.eye(3)
    shift = torch.tensor([0.7, -0.4, 0.5], dtype=torch.float64)
    given_root = root.diagonal() if covariance == "diagonal" else root
    test = RatioTest(Gaussian(torch.zeros(3).double(), given_root), Gaussian(root @ shift, given_root))
    n = 100_000
    found = held_out(test, Worlds(normal(2, n, 3) @ root.T, (normal(3, n, 3) + shift) @ root.T))
    expected = NormalDist().cdf(-float(shift.norm()) / 2)
    slack = 4 * math.sqrt(expected * (1 - expected) / n)
    assert found.miss == pytest.approx(expected, abs=slack)
    assert found.false_alarm == pytest.approx(expected, abs=slack)
    assert found.advantage == pytest.approx(1 - 2 * expected, abs=2 * slack)
    assert found.standard_error == pytest.approx(math.sqrt(2 * expected * (1 - expected) / n), rel=0.02)


def test_densities_are_those_of_torch() -> None:
    outputs, others = normal(0, 9, 4), normal(1, 6, 4)
    one = gaussian(outputs)
    expected = torch.distributions.Normal(outputs.mean(0), outputs.std(0)).log_prob(others).sum(1)
    torch.testing.assert_close(one.log_density(others), expected)
    whole = gaussian(outputs, "ledoit_wolf")
    expected = torch.distributions.MultivariateNormal(outputs.mean(0), ledoit_wolf(outputs)).log_prob(others)
    torch.testing.assert_close(whole.log_density(others), expected, rtol=1e-9, atol=0)
    apart = others - outputs.mean(0)
    mahalanobis = (apart @ torch.linalg.inv(ledoit_wolf(outputs)) * apart).sum(1)
    torch.testing.assert_close(whole.standardised(others).square().sum(1), mahalanobis, rtol=1e-9, atol=0)


@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 1000))
def test_the_shrunk_covariance_is_that_of_its_definition(n: int, t: int, seed: int) -> None:
    x = normal(seed, n, t) * (1 + torch.arange(t))
    rows = [row - x.mean(0) for row in x]
    s = sum(torch.outer(row, row) for row in rows) / n
    target = torch.eye(t, dtype=torch.float64) * s.trace() / t
    d = float((s - target).square().sum())
    b = sum(float((torch.outer(row, row) - s).square().sum()) for row in rows) / n**2
    share = min(b, d) / d if d > 1e-18 * float(s.trace()) ** 2 else 0.0
    torch.testing.assert_close(ledoit_wolf(x), (1 - share) * s + share * target)


def test_every_model_is_judged_by_a_fit_and_by_queries_of_the_others() -> None:
    """By plain loops: model i of either world by the test of all models whose number is not i modulo the folds."""
    worlds, folds, choose = Worlds(normal(0, 10, 8), normal(1, 13, 8) + 0.6), 3, 4
    misses, alarms = [], []
    for fold in range(folds):
        kept = [[i for i in range(len(world)) if i % folds != fold] for world in worlds]
        fit = Worlds(worlds.honest[kept[0]], worlds.dishonest[kept[1]])
        gap = [
            (float(a.mean() - b.mean()) ** 2 / float(a.var() + b.var()), query)
            for query, (a, b) in enumerate(zip(fit.honest.T, fit.dishonest.T, strict=True))
        ]
        queries = [query for _, query in sorted(gap, reverse=True)[:choose]]
        assert discriminating(fit, choose).tolist() == queries
        test = fitted(fit.at(torch.tensor(queries)))
        alarms += [float(test.statistic(worlds.honest[i, queries][None])) > 0 for i in range(10) if i % folds == fold]
        misses += [
            float(test.statistic(worlds.dishonest[i, queries][None])) <= 0 for i in range(13) if i % folds == fold
        ]
    found = cross_fitted(worlds, folds, choose=choose)
    assert found == Errors(miss=sum(misses) / 13, false_alarm=sum(alarms) / 10, honest=10, dishonest=13)


def test_a_world_beside_itself_is_never_accused() -> None:
    """Two worlds that share their models, position by position: no query of one fold has seen the other's copy."""
    models = normal(0, 16, 5)
    found = cross_fitted(Worlds(models, models.clone()), 4)
    assert (found.miss, found.false_alarm) == (1, 0)


def test_outputs_without_variance_have_a_likelihood_too() -> None:
    test = fitted(Worlds(torch.zeros(4, 2), torch.ones(4, 2)))
    assert (test.statistic(torch.tensor([[0.1, 0.0], [0.9, 1.0]])) > 0).tolist() == [False, True]


def test_log_odds_are_margins_and_exact_where_a_probability_rounds_to_one() -> None:
    logits, y = 20 * normal(0, 3, 7, 4).float(), torch.arange(7) % 4
    found = log_odds(logits.double().softmax(-1), y, 1e-300)
    torch.testing.assert_close(found, margins(logits, y).double(), rtol=1e-5, atol=1e-5)
    sure = torch.tensor([[1.0, 1e-12, 1e-13]])
    assert float(log_odds(sure, torch.tensor([0]), 1e-30)) == pytest.approx(-math.log(1.1e-12), rel=1e-6)
    for label, expected in ((0, -math.log(2e-9)), (1, math.log(1e-9))):  # all others, or itself, at the clamp
        assert float(log_odds(torch.tensor([[1.0, 0, 0]]), torch.tensor([label]))) == pytest.approx(expected)
    assert log_odds(torch.tensor([[float("nan"), 0.5, 0.5]]), torch.tensor([0])).isnan().all()


def test_coupling_is_the_cosine_and_the_lengths_in_the_norm_of_the_inverse_curvature() -> None:
    root, g, total = normal(0, 5, 5), normal(1, 3, 5), normal(2, 5)
    h = root @ root.T + torch.eye(5)

    def product(a: Tensor, b: Tensor) -> float:
        return float(a @ torch.linalg.inv(h) @ b)

    step = torch.linalg.solve(h, total)
    for share in (0.0, 0.3):
        by_hand = [
            abs(product(z, total)) / math.sqrt(product(z, z) * product(total, total)) / (1 - share)
            * math.sqrt(product(z, z) / product(total, total))
            for z in g
        ]  # fmt: skip
        found = coupling(g @ step, total @ step, share)
        torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64))
        torch.testing.assert_close(coupling(-2 * (g @ step), 2 * (total @ step), share), found)


def test_too_few_models_and_outputs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="not on 1"):
        gaussian(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="finite"):
        gaussian(torch.tensor([[0.0], [float("nan")]]))
    for worlds, folds in ((Worlds(normal(0, 3, 2), normal(1, 9, 2)), 4), (Worlds(normal(0, 3, 2), normal(1, 9, 2)), 2)):
        with pytest.raises(ValueError, match="3 and 9 models do not suffice"):
            cross_fitted(worlds, folds)
