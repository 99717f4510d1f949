"""Gaussian score: owners add noise to their inputs, and correlate it with the input gradients of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Data, Examples
from data.randomness import generator
from defenses.verification.verification import Case, Prepared, Sight, Verdict, Verification
from metrics.conformal import rank
from metrics.noise_correlation import (
    NoiseTest,
    clipped_null,
    correlations,
    exact_test,
    poisons_needed,
    simulated_test,
)
from models.gradients import CHUNK
from models.passes import rows_at_once
from models.victim import Victim, forward
from unlearning.procedure import Task

POWER = 0.95  # for which the number of poisons is told
Margin = Literal["soft", "hard"]


@plain_dataclass(frozen=True, eq=False)
class Noise:
    """What owners keep: their inputs as they were, `base`, and the noise that was added, in pixel units (P, *shape)."""

    base: Examples
    added: Tensor


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class GaussianScore(Verification):
    """Before training, noise xi ~ N(0, scale^2 I) is added to the inputs of the first `poisons` records of the owners.

    `scale` is in units of pixels in [0, 1], of features in standardised units in tables; labels stay as they are. When
    they are said to be forgotten, I_i = <xi_i, grad phi(x_i)> / (scale ||grad phi(x_i)||) is taken on the opened model,
    in float64, at the input x_i before the noise, and Z = P^(-1/2) sum_i I_i. Training on x_i + xi_i makes I_i positive
    on average. For a model that never depended on the noise Z is exactly N(0, 1), whatever was done to it, so "deleted"
    is rejected at level `alpha` iff Z exceeds the normal quantile. With `clip` noisy pixels stay in [0, 1]; what was
    added then counts, and the null is simulated with `draws` fresh draws. A record at which the model has no gradient
    is left out; since the noise has no part in that, the null stays what it is.

    phi is the margin of the label, log p_y / (1 - p_y) (soft) or z_y - max of the other logits (hard). The gradient of
    the loss has the same direction, but is zero in floating point where the model is sure, so that large logits would
    hide the noise; the soft margin hardly changes with their scale, the hard one not at all. Never taken at the noisy
    input: there even a model that never saw it has a mean other than 0 (scale^2 times the Hessian's trace).
    The power is that of the same test on the model before, by its own mean. Models share the noise, so that more of
    them sharpen nothing, but more poisons do.

    Source: Pawelczyk et al., "Machine Unlearning Fails to Remove Data Poisoning Attacks", ICLR 2025 (Gaussian poisons);
    margins, the exact null and the thresholds are ours.
    """

    name: ClassVar[str] = "gaussian_score"
    sees: ClassVar[Sight] = "model"
    poisons: Annotated[int, Field(ge=1)] | None = None
    scale: Annotated[float, Field(gt=0)] = 0.15
    clip: bool = False
    margin: Margin = "soft"
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    draws: Annotated[int, Field(ge=1)] = 1999

    def check(self, data: Data, users: tuple[Tensor, ...], task: Task) -> None:
        """Raise UserError where there are fewer records than poisons, or nothing to clip to."""
        records = sum(map(len, users))
        if self.poisons is not None and self.poisons > records:
            raise UserError(f"defense.poisons={self.poisons}: the owners have only {records} records.")
        if self.clip and not data.is_image:
            raise UserError("defense.clip=true is for images, whose pixels lie in [0, 1]; use defense.clip=false.")
        if self.clip and rank(self.draws, self.alpha) > self.draws:
            raise UserError(f"defense.draws={self.draws} are too few for defense.alpha={self.alpha}; raise them.")

    def prepare(self, data: Data, users: tuple[Tensor, ...], rng: torch.Generator) -> Prepared:
        """The records with noise on them; the secret is `Noise`, as it is after clipping and rounding."""
        where = torch.cat(users)[: self.poisons].to(data.train.y.device)
        base, (mean, std) = data.train[where], _units(data)
        drawn = torch.randn(base.x.shape, generator=rng, dtype=torch.float64).to(base.x.device)
        noisy = base.x.double() * std + mean + self.scale * drawn
        x = data.train.x.clone()
        x[where] = (((noisy.clamp(0, 1) if self.clip else noisy) - mean) / std).to(x)
        return Prepared(Examples(x, data.train.y), Noise(base, (x[where].double() - base.x.double()) * std))

    def verify(self, case: Case) -> Verdict:
        """Correlate; raises UserError where the model is not opened."""
        if case.model is None or case.model_before is None:
            raise UserError("defense=gaussian_score needs the opened model, before and after.")
        (scores, after), (_, before) = self._test(case, case.model), self._test(case, case.model_before)
        mu_before = math.nan if before is None else before.mu
        details = {
            "scores": scores,
            "mu": math.nan if after is None else after.mu,
            "poisons": len(scores),
            "Z_before": math.nan if before is None else before.z,
            "mu_before": mu_before,
            "poisons_needed": poisons_needed(mu_before, self.alpha, POWER),
        }
        return Verdict(
            passed=after is None or after.z <= after.threshold,
            statistic=math.nan if after is None else after.z,
            threshold=math.nan if after is None else after.threshold,
            level=self.alpha,
            power=0.0 if before is None else before.power,
            p_value=None if after is None else after.p_value,
            reason=_reason(after),
            gradients=2 * len(case.secret.base),
            details=details,
        )

    def _test(self, case: Case, model: Victim) -> tuple[list[float], NoiseTest | None]:
        """The scores of the records at which the model has a gradient, and their test where there are any."""
        noise, (mean, std) = case.secret, _units(case.data)
        gradients = margin_gradients(model, noise.base, self.margin) / std  # by pixels, not by what the model gets
        if not bool(gradients.isfinite().all()):
            raise UserError("defense=gaussian_score: the model has an input gradient that is not finite.")
        usable = (gradients != 0).flatten(1).any(dim=1)
        gradients, added = gradients[usable], noise.added[usable]
        if len(added) == 0:
            return [], None
        scores = correlations(added, gradients, self.scale)
        if not self.clip:
            return scores.tolist(), exact_test(scores, self.alpha)
        pixels = (noise.base.x.double() * std + mean)[usable]
        null = clipped_null(pixels, gradients, self.scale, self.draws, generator(case.seed, self.name, "null"))
        return scores.tolist(), simulated_test(scores, null, self.alpha)


def margin_gradients(model: Victim, examples: Examples, margin: Margin) -> Tensor:
    """grad_x phi(x_i) of the margin of the labels, shape of `examples.x`, with the model and all inputs in float64."""
    tensors = [{name: _double(value) for name, value in kept.items()} for kept in (model.moving, model.buffers)]
    double, x = Victim(model.module, *tensors), examples.x.double()
    rows, found = rows_at_once(double, x, CHUNK), []
    for inputs, labels in zip(x.split(rows), examples.y.split(rows), strict=True):
        own = inputs.detach().clone().requires_grad_()
        logits = forward(double.module, double.moving, double.buffers, own)
        label = labels[:, None]
        others = logits.scatter(1, label, -torch.inf)
        phi = logits.gather(1, label)[:, 0] - (others.logsumexp(1) if margin == "soft" else others.amax(1))
        found.append(torch.autograd.grad(phi.sum(), own, materialize_grads=True)[0])
    return torch.cat(found)


def _double(value: Tensor) -> Tensor:
    return value.detach().double() if value.is_floating_point() else value


def _units(data: Data) -> tuple[Tensor, Tensor]:
    """(mean, std) by which inputs become the units of the noise, x * std + mean: pixels, or features as they are."""
    if data.is_image:
        return data.mean.double(), data.std.double()
    return torch.zeros_like(data.mean, dtype=torch.float64), torch.ones_like(data.std, dtype=torch.float64)


def _reason(test: NoiseTest | None) -> str:
    if test is None:
        return "The model has no input gradient at any of the records, so there is nothing to correlate."
    most = f"{'not more' if test.z <= test.threshold else 'more'} than {test.threshold:.3g}"
    return f"The noise of {test.poisons} records correlates with the input gradients by a Z of {test.z:.3g}, {most}."
