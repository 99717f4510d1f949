"""Uncertainty functionals u(x; theta): what an uncertainty attack moves. Larger u = less certain.

Every functional maps log-probabilities `log_p` (..., S, T, K) of S sampled models on T targets, the labels (..., T)
that the victim predicted, and (where `calibrated`) the log-probabilities (..., S, C, K) and labels (C,) of calibration
examples, to u (..., T). S is `samples` dropout masks times `members` victims. The choice is ours (docs/attacks.md).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class Functional(Protocol):
    """The role of an uncertainty functional; `from_probabilities` says whether a black box's answers suffice."""

    @property
    def samples(self) -> int: ...
    @property
    def members(self) -> int: ...
    @property
    def calibrated(self) -> bool: ...
    @property
    def from_probabilities(self) -> bool: ...
    def __call__(self, log_p: Tensor, labels: Tensor, calibration: tuple[Tensor, Tensor] | None = None) -> Tensor: ...


def label_of(functional: Functional) -> str:
    """What a functional measures, in words: its `label`, or the name of its class. Larger is less certain."""
    return str(getattr(functional, "label", type(functional).__name__))


def averaged(log_p: Tensor) -> Tensor:
    """log of the mean probability over the sampled models: (..., S, T, K) -> (..., T, K)."""
    return log_p.logsumexp(-3) - math.log(log_p.shape[-3])


def margins(log_p: Tensor, labels: Tensor) -> Tensor:
    """f_y - max_{k != y} f_k in logit units, (..., T); differences of log-probabilities are differences of logits."""
    index = labels[..., None].expand(*log_p.shape[:-1], 1)
    others = log_p.scatter(-1, index, -math.inf).amax(-1)
    return log_p.gather(-1, index)[..., 0] - others


def _entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats of (..., K) log-probabilities."""
    return -(log_p.exp() * log_p.clamp_min(-1e4)).sum(-1)


class _Single:
    """Defaults of a functional of one deterministic model."""

    samples: ClassVar[int] = 1
    members: ClassVar[int] = 1
    calibrated: ClassVar[bool] = False
    from_probabilities: ClassVar[bool] = True


@dataclass(frozen=True, config=STRICT)
class Confidence(_Single):
    """1 - p_yhat: smooth, because the label is frozen."""

    label: ClassVar[str] = "1 - probability of the label"

    def __call__(self, log_p: Tensor, labels: Tensor, calibration: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """u (..., T) in [0, 1]."""
        mean = averaged(log_p)
        return 1 - mean.gather(-1, labels[..., None].expand(*mean.shape[:-1], 1))[..., 0].exp()


@dataclass(frozen=True, config=STRICT)
class Entropy(_Single):
    """Entropy of the prediction divided by log K, in [0, 1]."""

    label: ClassVar[str] = "entropy / log K"

    def __call__(self, log_p: Tensor, labels: Tensor, calibration: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """u (..., T) in [0, 1]."""
        return _entropy(averaged(log_p)) / math.log(log_p.shape[-1])


@dataclass(frozen=True, config=STRICT)
class Margin(_Single):
    """-(p_(1) - p_(2)), the probability margin of the two most likely classes."""

    label: ClassVar[str] = "minus the margin of the two largest probabilities"

    def __call__(self, log_p: Tensor, labels: Tensor, calibration: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """u (..., T) in [-1, 0]."""
        top = averaged(log_p).exp().topk(2, dim=-1).values
        return top[..., 1] - top[..., 0]


@dataclass(frozen=True, config=STRICT)
class LogitGap(_Single):
    """-m_yhat, the temperature-free logit gap: the best-conditioned functional."""

    label: ClassVar[str] = "minus the logit margin of the label"

    def __call__(self, log_p: Tensor, labels: Tensor, calibration: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """u (..., T) in logit units, unbounded."""
        return -margins(averaged(log_p), labels)


def _mixture(log_p: Tensor, quantity: str) -> Tensor:
    total = _entropy(averaged(log_p))
    return (total - _entropy(log_p).mean(-2) if quantity == "epistemic" else total) / math.log(log_p.shape[-1])


@dataclass(frozen=True, kw_only=True, config=STRICT)
class McDropout:
    """Entropy over `samples` dropout masks, divided by log K: total H(mean p), or epistemic H(mean p) - mean H(p).

    The masks are drawn once per attack (common random numbers). Needs a model with dropout, and white-box access.
    """

    members: ClassVar[int] = 1
    calibrated: ClassVar[bool] = False
    from_probabilities: ClassVar[bool] = False
    samples: Annotated[int, Field(ge=2), at_most(10_000, "each is a pass of the model")] = 16
    quantity: Literal["total", "epistemic"] = "total"

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.quantity} entropy over {self.samples} dropout masks / log K"

    def __call__(self, log_p: Tensor, labels: Tensor, calibration: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """u (..., T) in [0, 1]."""
        return _mixture(log_p, self.quantity)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EnsembleEntropy:
    """Entropy over `members` victims trained from different seeds, divided by log K: total or epistemic."""

    samples: ClassVar[int] = 1
    calibrated: ClassVar[bool] = False
    members: Annotated[int, Field(ge=2), at_most(1000, "each is a model of its own")] = 5
    quantity: Literal["total", "epistemic"] = "total"

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.quantity} entropy over {self.members} victims / log K"

    @property
    def from_probabilities(self) -> bool:
        """The total entropy needs the mean prediction only, which a black box gives."""
        return self.quantity == "total"

    def __call__(self, log_p: Tensor, labels: Tensor, calibration: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """u (..., T) in [0, 1]."""
        return _mixture(log_p, self.quantity)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ConformalSetSize:
    """Smoothed size of the split-conformal set: sum_k sigmoid((qhat - a_k)/temperature) with a_k = 1 - p_k.

    qhat is the ceil((C+1)(1-alpha))-th smallest score of the calibration examples under the same model; it is held
    constant when the size is differentiated.
    """

    samples: ClassVar[int] = 1
    members: ClassVar[int] = 1
    calibrated: ClassVar[bool] = True
    from_probabilities: ClassVar[bool] = True
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
    temperature: Annotated[float, Field(gt=0)] = 0.05

    @property
    def label(self) -> str:
        """In words."""
        return f"smoothed size of the conformal set (alpha = {self.alpha:g}), in classes"

    def __call__(self, log_p: Tensor, labels: Tensor, calibration: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """u (..., T) in [0, K]."""
        if calibration is None:
            raise ValueError("The conformal set size needs calibration predictions.")
        known, truth = averaged(calibration[0]).exp(), calibration[1]
        scores = 1 - known.gather(-1, truth[..., None].expand(*known.shape[:-1], 1))[..., 0]
        count = scores.shape[-1]
        rank = math.ceil((count + 1) * (1 - Fraction(str(self.alpha))))
        if rank > count:
            threshold = torch.full_like(scores[..., :1], math.inf)
        else:
            threshold = scores.detach().sort(-1).values[..., rank - 1 : rank]
        return torch.sigmoid((threshold[..., None] - 1 + averaged(log_p).exp()) / self.temperature).sum(-1)
