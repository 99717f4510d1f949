"""Closed forms, limits and inverses of the Gaussian mechanism."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from unlearning.certification.gaussian_mechanism import (
    classical_sensitivity_for,
    classical_sigma_for,
    delta_of,
    epsilon_for,
    sensitivity_for,
    sigma_for,
)

DELTA = 1e-5
EPSILONS = (0.5, 1.0, 5.0, 10.0, 50.0)


def hockey_stick(sensitivity: float, sigma: float, epsilon: float) -> float:
    """The integral of max(0, p - e^epsilon q) over the line, p = N(sensitivity, sigma^2) and q = N(0, sigma^2)."""
    edge = sensitivity / 2 + epsilon * sigma**2 / sensitivity  # p > e^epsilon q beyond it

    def excess(x: float) -> float:
        shifted = norm.logpdf(x, sensitivity, sigma)
        return math.exp(shifted) - math.exp(epsilon + norm.logpdf(x, 0, sigma))

    return float(quad(excess, edge, max(edge, sensitivity) + 12 * sigma, epsabs=0, epsrel=1e-11, limit=200)[0])


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_delta_is_the_integral_that_defines_it(epsilon: float, sigma: float) -> None:
    """Twelve standard deviations leave out 2e-33, far below every delta here."""
    assert delta_of(1.0, sigma, epsilon) == pytest.approx(hockey_stick(1.0, sigma, epsilon), rel=1e-8)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_the_analytic_sigma_keeps_its_delta_and_is_the_smallest_that_does(epsilon: float) -> None:
    sigma = sigma_for(2.0, epsilon, DELTA)
    assert delta_of(2.0, sigma, epsilon) <= DELTA * (1 + 1e-6)
    assert delta_of(2.0, sigma * (1 - 1e-6), epsilon) > DELTA


@pytest.mark.parametrize(("epsilon", "kept"), [(0.5, True), (1.0, True), (5.0, True), (10.0, False), (50.0, False)])
def test_the_classical_sigma_fails_at_10_and_50(epsilon: float, kept: bool) -> None:
    assert (delta_of(1.0, classical_sigma_for(1.0, epsilon, DELTA), epsilon) <= DELTA) is kept


def test_the_classical_sigma_is_too_small_for_large_epsilon() -> None:
    """At delta 1e-5 the classical sigma gives 2.3e-5 for epsilon 10, 0.59 for 50; epsilon 8.0e8 at 40/0.001."""
    assert delta_of(1.0, classical_sigma_for(1.0, 10.0, DELTA), 10.0) == pytest.approx(2.3e-5, rel=0.03)
    assert delta_of(1.0, classical_sigma_for(1.0, 50.0, DELTA), 50.0) == pytest.approx(0.59, abs=0.005)
    assert epsilon_for(40.0, 1e-3, DELTA) == pytest.approx(8.0e8, rel=1e-3)
    assert delta_of(40.0, 1e-3, 1.9e5) == 1.0
    assert sigma_for(2 * 42.5 / 2, 1.0, DELTA) < 206 * 1.01
    assert classical_sigma_for(42.5, 1.0, DELTA) == pytest.approx(206, rel=0.01)


def test_guo_calibration() -> None:
    """delta = 1.5 exp(-c^2/2) with sigma = c sensitivity / epsilon; broken at epsilon 10 and 20."""
    largest = classical_sensitivity_for(2.0, 1.0, DELTA, constant=1.5)
    c = 2.0 * 1.0 / largest
    assert 1.5 * math.exp(-(c**2) / 2) == pytest.approx(DELTA, rel=1e-12)
    for epsilon, low, high in ((10.0, 1.5, 2.5), (20.0, 100.0, math.inf)):
        excess = delta_of(classical_sensitivity_for(1.0, epsilon, DELTA, constant=1.5), 1.0, epsilon) / DELTA
        assert low < excess < high


@given(
    sensitivity=st.floats(1e-3, 1e3), sigma=st.floats(1e-3, 1e3), delta=st.floats(1e-12, 0.5),
)  # fmt: skip
def test_epsilon_and_delta_are_inverse(sensitivity: float, sigma: float, delta: float) -> None:
    """epsilon is the smallest one: delta is met, and missed just below. d ln(delta)/d epsilon is at most 40 here."""
    epsilon = epsilon_for(sensitivity, sigma, delta)
    assert delta_of(sensitivity, sigma, epsilon) <= delta * (1 + 1e-12)
    if epsilon > 0:
        assert delta_of(sensitivity, sigma, epsilon * (1 - 1e-6)) > delta * (1 - 1e-12)


@given(epsilon=st.floats(1e-3, 1e4), delta=st.floats(1e-12, 0.5), sigma=st.floats(1e-3, 1e3))
def test_sigma_and_sensitivity_are_inverse(epsilon: float, delta: float, sigma: float) -> None:
    largest = sensitivity_for(sigma, epsilon, delta)
    assert sigma_for(largest, epsilon, delta) == pytest.approx(sigma, rel=1e-14)
    assert delta_of(largest, sigma, epsilon) <= delta * (1 + 1e-9)
    assert delta_of(largest * (1 + 1e-6), sigma, epsilon) > delta


@given(
    sensitivity=st.floats(1e-2, 1e2), sigma=st.floats(1e-2, 1e2), epsilon=st.floats(0, 1e3), more=st.floats(1.001, 3)
)
def test_delta_falls_with_noise_and_with_epsilon(sensitivity: float, sigma: float, epsilon: float, more: float) -> None:
    here = delta_of(sensitivity, sigma, epsilon)
    assert 0 <= here <= 1
    assert delta_of(sensitivity, sigma * more, epsilon) <= here
    assert delta_of(sensitivity, sigma, epsilon * more) <= here
    assert delta_of(sensitivity * more, sigma, epsilon) >= here


@given(scale=st.floats(1e-6, 1e6), epsilon=st.floats(0.01, 100))
def test_only_the_ratio_matters(scale: float, epsilon: float) -> None:
    assert sigma_for(scale, epsilon, DELTA) == pytest.approx(scale * sigma_for(1.0, epsilon, DELTA), rel=1e-14)


def test_limits() -> None:
    assert delta_of(0.0, 1.0, 1.0) == 0.0
    assert delta_of(1.0, 0.0, 1.0) == 1.0
    assert delta_of(1.0, 0.0, 1e9) == 1.0
    assert epsilon_for(1.0, 0.0, DELTA) == math.inf
    assert epsilon_for(0.0, 0.0, DELTA) == 0.0
    assert epsilon_for(1e-9, 1.0, DELTA) == 0.0  # total variation is below delta
    assert sensitivity_for(0.0, 1.0, DELTA) == 0.0
    assert delta_of(1.0, 1.0, 0.0) == pytest.approx(2 * norm.cdf(0.5) - 1, rel=1e-14)  # total variation
    assert delta_of(1.0, 1.0, 1e5) == 0.0  # far below the smallest float
    assert epsilon_for(1.0, 1.0, 1e-300) == pytest.approx(0.5 + norm.isf(1e-300), rel=0.01)
    # for large epsilon the tail decides: epsilon = r^2/2 + z r with z the quantile of delta, but for terms of order 1
    assert epsilon_for(1e4, 1.0, DELTA) == pytest.approx(1e8 / 2 + norm.isf(DELTA) * 1e4, abs=5)


@pytest.mark.parametrize("wrong", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_outside_its_range_is_an_error(wrong: float) -> None:
    for function in (epsilon_for, sigma_for, sensitivity_for, classical_sigma_for):
        with pytest.raises(ValueError, match="delta of a Gaussian mechanism"):
            function(1.0, 1.0, wrong)


@pytest.mark.parametrize("wrong", [-1.0, math.nan])
def test_negative_numbers_are_an_error(wrong: float) -> None:
    for arguments in ((wrong, 1.0, 1.0), (1.0, wrong, 1.0), (1.0, 1.0, wrong)):
        with pytest.raises(ValueError, match="at least 0"):
            delta_of(*arguments)
