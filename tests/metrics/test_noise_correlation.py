from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from data.randomness import generator
from metrics import noise_correlation
from metrics.noise_correlation import (
    NoiseTest,
    clipped_null,
    correlations,
    directions,
    exact_test,
    poisons_needed,
    simulated_test,
    statistic,
)

SCALE = 0.15


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "noise correlation"), dtype=torch.float64)


def test_they_are_the_inner_products_of_the_formula() -> None:
    noise, gradients = SCALE * draw(7, 2, 3), draw(7, 2, 3, seed=1)
    by_hand = [
        sum(a * b for a, b in zip(xi.flatten().tolist(), g.flatten().tolist(), strict=True)) / (SCALE * float(g.norm()))
        for xi, g in zip(noise, gradients, strict=True)
    ]
    found = correlations(noise, gradients, SCALE)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64))
    assert statistic(found) == pytest.approx(sum(by_hand) / math.sqrt(7))


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e300])
def test_the_size_of_a_gradient_says_nothing(size: float) -> None:
    """Squares of such gradients are no numbers in float64."""
    gradients = draw(5, 4)
    torch.testing.assert_close(directions(size * gradients, SCALE), directions(gradients, SCALE))


def test_the_exact_test_is_that_of_a_normal_mean() -> None:
    scores = draw(30) + 0.3
    test = exact_test(scores, 0.05)
    assert test.threshold == pytest.approx(1.6448536, abs=1e-7)
    assert test.p_value == pytest.approx(scipy.stats.norm.sf(test.z), rel=1e-12)
    assert (test.p_value <= 0.05) is (test.z > test.threshold)
    assert test.mu == pytest.approx(float(scores.mean()))
    assert test.power == pytest.approx(scipy.stats.norm.cdf(float(scores.mean()) * math.sqrt(30) - test.threshold))


def test_the_power_is_what_fresh_scores_of_the_same_mean_give() -> None:
    """20,000 samples of 50 scores; three standard errors."""
    mu = 0.25
    test = NoiseTest(z=mu * math.sqrt(50), mean=0, sd=1, threshold=1.6448536, p_value=0, poisons=50)
    rejected = float(((draw(20_000, 50) + mu).sum(1) / math.sqrt(50) > test.threshold).double().mean())
    assert abs(rejected - test.power) <= 3 * math.sqrt(test.power * (1 - test.power) / 20_000)


@pytest.mark.parametrize("mu", [0.02, 0.2, 0.43, 5.0])
def test_as_many_poisons_as_the_power_takes(mu: float) -> None:
    needed = poisons_needed(mu, 0.05, 0.95)

    def power(poisons: float) -> float:
        return float(scipy.stats.norm.cdf(mu * math.sqrt(poisons) - scipy.stats.norm.ppf(0.95)))

    assert power(needed) >= 0.95
    assert needed == 1 or power(needed - 1) < 0.95


def test_no_number_of_poisons_helps_without_an_effect() -> None:
    assert poisons_needed(0.0, 0.05, 0.95) == poisons_needed(-1.0, 0.05, 0.95) == math.inf
    assert poisons_needed(math.nan, 0.05, 0.95) == math.inf


def test_a_simulated_null_rejects_as_its_p_value_says() -> None:
    null = draw(99, seed=2)
    for z in (null.sort().values + 1e-9).tolist():
        test = simulated_test(torch.tensor([z], dtype=torch.float64), null, 0.05)
        assert (test.z > test.threshold) is (test.p_value <= 0.05)
        assert test.p_value == (int((null >= z).sum()) + 1) / 100
    with pytest.raises(ValueError, match="too few"):
        simulated_test(draw(3), draw(18), 0.05)


def clipped_moments(base: float) -> tuple[float, float]:
    """Mean and variance of clip(base + SCALE N(0, 1), 0, 1) - base, by numerical integration."""
    normal = scipy.stats.norm(base, SCALE)
    high = normal.sf(1)
    first = normal.expect(lambda v: v, lb=0, ub=1) + high
    second = normal.expect(lambda v: v * v, lb=0, ub=1) + high
    return first - base, second - first**2


def test_the_clipped_null_has_the_moments_of_clipped_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 draws in several parts; three standard errors of a mean, and of the variance of a nearly normal sum."""
    monkeypatch.setattr(noise_correlation, "NUMBERS", 2**16)
    pixels = torch.tensor([[0.0, 0.1, 0.5], [1.0, 0.95, 0.0]], dtype=torch.float64)
    gradients = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, 2.0]], dtype=torch.float64)
    null = clipped_null(pixels, gradients, SCALE, 20_000, generator(0, "clipped"))
    weights = directions(gradients, SCALE)
    moments = [clipped_moments(float(value)) for value in pixels.flatten()]
    mean = sum(w * m for w, (m, _) in zip(weights.flatten().tolist(), moments, strict=True)) / math.sqrt(2)
    variance = sum(w**2 * v for w, (_, v) in zip(weights.flatten().tolist(), moments, strict=True)) / 2
    assert abs(float(null.mean()) - mean) <= 3 * math.sqrt(variance / 20_000)
    assert float(null.var()) == pytest.approx(variance, rel=3 * math.sqrt(2 / 20_000) * 1.5)


def test_clipped_noise_would_accuse_by_the_exact_null_and_does_not_by_its_own() -> None:
    """Noise on black pixels is positive, so a model that likes them bright correlates with it, whatever it saw."""
    pixels, gradients = torch.zeros(20, 16, dtype=torch.float64), 1 + 0.2 * draw(20, 16)
    null = clipped_null(pixels, gradients, SCALE, 999, generator(1, "clipped"))
    exact = own = 0
    for seed in range(400):
        noise = (SCALE * draw(20, 16, seed=100 + seed)).clamp(0, 1)
        scores = correlations(noise, gradients, SCALE)
        exact += exact_test(scores, 0.05).z > exact_test(scores, 0.05).threshold
        test = simulated_test(scores, null, 0.05)
        own += test.z > test.threshold
    assert exact == 400
    assert own <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)
    assert own >= 400 * 0.05 - 4 * math.sqrt(400 * 0.05 * 0.95)
