"""What Gaussian noise hides: the analytic Gaussian mechanism, and the classical formula as a named alternative.

Two vectors at most Delta apart (the sensitivity), each released with noise N(0, sigma^2 I), are (epsilon, delta)-
indistinguishable if and only if delta >= Phi(Delta/(2 sigma) - epsilon sigma/Delta) - e^epsilon Phi(-Delta/(2 sigma) -
epsilon sigma/Delta). Everything depends on Delta/sigma alone. Source: Balle and Wang, ICML 2018.
"""

from __future__ import annotations

import math

LARGEST = 1e150  # its square is still a number in float64


def delta_of(sensitivity: float, sigma: float, epsilon: float) -> float:
    """The smallest delta at which noise of standard deviation `sigma` gives (epsilon, delta).

    1 without noise, 0 for a sensitivity of 0. Raises ValueError for a negative or undefined argument.
    """
    return math.exp(_log_delta(_ratio(sensitivity, sigma), _at_least_zero("epsilon", epsilon)))


def epsilon_for(sensitivity: float, sigma: float, delta: float) -> float:
    """The smallest epsilon at which noise of standard deviation `sigma` gives (epsilon, delta); infinite without noise.

    Rounded up, so that delta_of(sensitivity, sigma, result) <= delta. Raises ValueError unless 0 < delta < 1.
    """
    ratio, target = _ratio(sensitivity, sigma), math.log(_inside("delta", delta))
    if ratio > LARGEST:
        return math.inf
    if _log_delta(ratio, 0.0) <= target:
        return 0.0
    low, high = 0.0, ratio**2 / 2 + ratio * math.sqrt(-2 * target)  # delta <= Phi(-x) <= e^{-x^2/2} gives the end
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if _log_delta(ratio, middle) <= target else (middle, high)
    return high


def sensitivity_for(sigma: float, epsilon: float, delta: float) -> float:
    """The largest sensitivity that noise of standard deviation `sigma` hides at (epsilon, delta)."""
    return _at_least_zero("sigma", sigma) * _largest_ratio(epsilon, delta)


def sigma_for(sensitivity: float, epsilon: float, delta: float) -> float:
    """The smallest standard deviation that hides a sensitivity at (epsilon, delta)."""
    return _at_least_zero("sensitivity", sensitivity) / _largest_ratio(epsilon, delta)


def classical_sigma_for(sensitivity: float, epsilon: float, delta: float, constant: float = 1.25) -> float:
    """sigma = Delta sqrt(2 ln(constant/delta)) / epsilon: proven for epsilon <= 1, and too small for large epsilon.

    `constant` is 1.25 in Dwork and Roth (2014) and in Zhang et al. (2024), 1.5 in Guo et al. (2020).
    """
    return _at_least_zero("sensitivity", sensitivity) / classical_sensitivity_for(1.0, epsilon, delta, constant)


def classical_sensitivity_for(sigma: float, epsilon: float, delta: float, constant: float = 1.25) -> float:
    """The sensitivity for which `classical_sigma_for` asks for this `sigma`."""
    spread = math.sqrt(2 * math.log(constant / _inside("delta", delta)))
    return _at_least_zero("sigma", sigma) * _at_least_zero("epsilon", epsilon) / spread


def _log_delta(ratio: float, epsilon: float) -> float:
    """ln delta for Delta/sigma = `ratio`.

    With a = ratio/2 - epsilon/ratio and b = a - ratio, e^epsilon phi(b) = phi(a): the difference of the formula is
    Phi(a) - phi(a) R(-b), with Mills' ratio R(x) = Phi(-x)/phi(x), and phi(a) (R(-a) - R(-b)) in the tail a <= 0,
    where nothing overflows and nothing underflows.
    """
    if ratio == 0:
        return -math.inf
    if math.isinf(ratio):
        return 0.0
    if epsilon == 0:
        return math.log(math.erf(ratio / math.sqrt(8)))
    upper, lower = ratio / 2 - epsilon / ratio, -ratio / 2 - epsilon / ratio
    log_density = -(upper**2) / 2 - math.log(2 * math.pi) / 2
    if upper > 0:
        mass = math.erfc(-upper / math.sqrt(2)) / 2 - math.exp(log_density) * _mills(-lower)
        return min(0.0, math.log(mass)) if mass > 0 else -math.inf
    difference = _mills(-upper) - _mills(-lower)
    return log_density + math.log(difference) if difference > 0 else -math.inf


def _mills(x: float) -> float:
    from scipy.special import erfcx

    return math.sqrt(math.pi / 2) * float(erfcx(x / math.sqrt(2)))


def _largest_ratio(epsilon: float, delta: float) -> float:
    """The largest Delta/sigma whose delta at `epsilon` is at most `delta`, rounded down."""
    target, high = math.log(_inside("delta", delta)), 1.0
    _at_least_zero("epsilon", epsilon)
    while _log_delta(high, epsilon) <= target:
        high *= 2
    low = high / 2
    while _log_delta(low, epsilon) > target:
        low, high = low / 2, low
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _log_delta(middle, epsilon) <= target else (low, middle)
    return low


def _ratio(sensitivity: float, sigma: float) -> float:
    _at_least_zero("sigma", sigma)
    if _at_least_zero("sensitivity", sensitivity) == 0:
        return 0.0
    return sensitivity / sigma if sigma > 0 else math.inf


def _at_least_zero(name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"The {name} of a Gaussian mechanism is at least 0, not {value}.")
    return value


def _inside(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"The {name} of a Gaussian mechanism lies strictly between 0 and 1, not {value}.")
    return value
