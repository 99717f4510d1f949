"""Does a model depend on noise that was added to its training inputs? Correlation of the noise with input gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.conformal import rank

NUMBERS = 2**22  # of noise that are drawn at once


@dataclass(frozen=True)
class NoiseTest:
    """A one-sided test that a model never depended on the noise; it rejects iff `z` > `threshold`.

    `mean` and `sd` are those of z for a model that never did, `p_value` the chance that such a model reaches z, and
    `poisons` the number of noisy inputs behind it.
    """

    z: float
    mean: float
    sd: float
    threshold: float
    p_value: float
    poisons: int

    @property
    def mu(self) -> float:
        """By how much one poison raises z times the root of their number, in standard deviations of the null."""
        return (self.z - self.mean) / (self.sd * math.sqrt(self.poisons))

    @property
    def power(self) -> float:
        """The chance that a test like this rejects again, on fresh noise: Phi((z - threshold) / sd).

        With the exact null that is Phi(mu sqrt(P) - z_alpha).
        """
        return _phi((self.z - self.threshold) / self.sd)


def correlations(noise: Tensor, gradients: Tensor, scale: float) -> Tensor:
    """I_i = <xi_i, g_i> / (scale ||g_i||) of noise xi (P, *shape) and gradients g (P, *shape): (P,), float64.

    xi_i ~ N(0, scale^2 I) and g_i is the gradient of the model's output at the input before the noise was added, both
    in the same units. For a model that never depended on xi its direction is independent of xi_i, so the I_i are
    independent N(0, 1), whatever the model is. At the noisy input that is not so. The gradient g_i may not be zero.
    Source: Pawelczyk et al., "Machine Unlearning Fails to Remove Data Poisoning Attacks", ICLR 2025; the null is ours.
    """
    return (noise.double() * directions(gradients, scale)).flatten(1).sum(1)


def directions(gradients: Tensor, scale: float) -> Tensor:
    """g_i / (scale ||g_i||) of gradients (P, *shape), float64, so that neither small nor large ones lose anything."""
    g = gradients.double()
    flat = g.flatten(1)
    flat = flat / flat.abs().amax(1, keepdim=True)  # their squares may be no numbers
    return (flat / (scale * flat.norm(dim=1, keepdim=True))).reshape(g.shape)


def statistic(scores: Tensor) -> float:
    """Z = P^(-1/2) sum_i I_i, which is N(0, 1) for a model that never depended on the noise."""
    return float(scores.double().sum()) / math.sqrt(len(scores))


def exact_test(scores: Tensor, alpha: float) -> NoiseTest:
    """Rejects iff Z of scores (P,) exceeds the normal quantile of 1 - alpha."""
    z = statistic(scores)
    return NoiseTest(z, 0.0, 1.0, -_quantile(alpha), _phi(-z), len(scores))


def simulated_test(scores: Tensor, null: Tensor, alpha: float) -> NoiseTest:
    """The same where the null has no formula: `null` (B,) are values of Z for fresh noise, such as `clipped_null`.

    The threshold is the ceil((B + 1)(1 - alpha))-th smallest of them, which makes the level at most alpha; the p-value
    is (k + 1) / (B + 1), k of them at least Z. Raises ValueError where B is too small for alpha.
    """
    place = rank(len(null), alpha)
    if place > len(null):
        raise ValueError(f"{len(null)} draws are too few for a level of {alpha}.")
    z, drawn = statistic(scores), null.double().sort().values
    p_value = (int((drawn >= z).sum()) + 1) / (len(drawn) + 1)
    return NoiseTest(z, float(drawn.mean()), float(drawn.std()), float(drawn[place - 1]), p_value, len(scores))


def clipped_null(pixels: Tensor, gradients: Tensor, scale: float, draws: int, rng: torch.Generator) -> Tensor:
    """Z (draws,) of a model that never saw the noise, where noisy pixels are clipped to [0, 1].

    `pixels` (P, *shape) are the inputs before, `gradients` those of the model at them. Clipped noise has neither mean 0
    nor one scale, so it is drawn afresh, added and clipped, and what is left of it enters Z.
    """
    base, weights = pixels.double().flatten(1).cpu(), directions(gradients, scale).flatten(1).cpu()
    found = []
    for part in torch.arange(draws).split(max(1, NUMBERS // base.numel())):
        fresh = torch.randn(len(part), *base.shape, generator=rng, dtype=torch.float64)
        fresh.mul_(scale).add_(base).clamp_(0, 1).sub_(base)
        found.append(fresh.flatten(1) @ weights.flatten())
    return torch.cat(found) / math.sqrt(len(base))


def poisons_needed(mu: float, alpha: float, power: float) -> float:
    """P = ((z_alpha + z_power) / mu)^2, rounded up: noisy inputs for that power at mean I_i = mu; inf unless mu > 0."""
    if not mu > 0:
        return math.inf
    reach = max(0.0, -_quantile(alpha) + _quantile(power))
    return float(max(1, math.ceil((reach / mu) ** 2)))


def _phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _quantile(rate: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(rate))
