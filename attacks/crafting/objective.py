"""What an attack minimises, written once for white-box search (differentiable) and black-box search (values only)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from attacks.crafting.functionals import Functional, averaged, margins


@dataclass(frozen=True, eq=False)
class CandidatePredictions:
    """Predictions of m candidate models, each for one goal, with what is compared with.

    `log_p` (m, S, T, K) on the goal's targets, `labels` (m, T), `direction` (m,); `reference` (m, S, R, K) on the
    attacker's reference examples, whose labels predicted by the victim are `reference_labels` (R,), whose true labels
    are `reference_truth` (R,), and on which the victim's mean loss is `reference_loss`.
    """

    log_p: Tensor
    labels: Tensor
    direction: Tensor
    reference: Tensor
    reference_labels: Tensor
    reference_truth: Tensor
    reference_loss: Tensor

    def kept(self) -> Tensor:
        """Whether every target of the goal still has the victim's label, (m,)."""
        return (averaged(self.log_p).argmax(-1) == self.labels).all(-1)


class Objective(Protocol):
    """`loss` guides the search, `rank` is compared among candidates that are `feasible`; all (m,), lower is better.

    `without_penalties()` is the objective whose loss is what the attacker wants alone.
    """

    def without_penalties(self) -> Objective: ...
    def loss(self, candidates: CandidatePredictions) -> Tensor: ...
    def rank(self, candidates: CandidatePredictions) -> Tensor: ...
    def feasible(self, candidates: CandidatePredictions) -> Tensor: ...


class Unconstrained:
    """What objectives have in common that every candidate is feasible for."""

    def feasible(self, candidates: CandidatePredictions) -> Tensor:
        """Always, (m,)."""
        return torch.ones(len(candidates.log_p), dtype=torch.bool, device=candidates.log_p.device)


def noticed(now: Tensor, before: Tensor, tolerance: float) -> Tensor:
    """[now - (1 + tolerance) before]_+ (m,): by how much a loss or an error rate rose beyond what goes unnoticed."""
    return (now - (1 + tolerance) * before).clamp_min(0)


@dataclass(frozen=True)
class UncertaintyObjective:
    """L = -dir sum_t u(x_t) + keep sum_t [kappa - m_yhat(x_t)]_+ + keep_reference mean_ref [kappa - m_yhat(x)]_+.

    With `feasible_first` a candidate is feasible when every target keeps its label, and feasible ones are ranked by the
    first term alone; without it every candidate is feasible and ranked by L. Our formulation (docs/attacks.md).
    """

    functional: Functional
    keep: float
    keep_reference: float
    kappa: float
    feasible_first: bool = True

    def without_penalties(self) -> UncertaintyObjective:
        """The effect alone."""
        return replace(self, keep=0.0, keep_reference=0.0)

    def rank(self, candidates: CandidatePredictions) -> Tensor:
        """What candidates are compared by."""
        return self.effect(candidates) if self.feasible_first else self.loss(candidates)

    def effect(self, candidates: CandidatePredictions) -> Tensor:
        """-dir sum_t u(x_t)."""
        calibration = (candidates.reference, candidates.reference_truth) if self.functional.calibrated else None
        return -candidates.direction * self.functional(candidates.log_p, candidates.labels, calibration).sum(-1)

    def loss(self, candidates: CandidatePredictions) -> Tensor:
        """The regularised objective."""
        target = (self.kappa - margins(averaged(candidates.log_p), candidates.labels)).clamp_min(0).sum(-1)
        reference = (
            (self.kappa - margins(averaged(candidates.reference), candidates.reference_labels)).clamp_min(0).mean(-1)
        )
        return self.effect(candidates) + self.keep * target + self.keep_reference * reference

    def feasible(self, candidates: CandidatePredictions) -> Tensor:
        """All target labels unchanged, where that is asked for."""
        kept = candidates.kept()
        return kept if self.feasible_first else torch.ones_like(kept)


@dataclass(frozen=True)
class DamageObjective(Unconstrained):
    """L = -R_ref, the mean cross-entropy on the reference examples, which is to rise. Every candidate is feasible."""

    def without_penalties(self) -> DamageObjective:
        """Itself: it has none."""
        return self

    def rank(self, candidates: CandidatePredictions) -> Tensor:
        """The objective itself."""
        return -_reference_loss(candidates)

    def loss(self, candidates: CandidatePredictions) -> Tensor:
        """The objective itself."""
        return self.rank(candidates)


def _reference_loss(candidates: CandidatePredictions) -> Tensor:
    """The mean cross-entropy (m,) on the reference examples."""
    truth = candidates.reference_truth[..., None].expand(len(candidates.log_p), -1, 1)
    return -averaged(candidates.reference).gather(-1, truth)[..., 0].mean(-1)


@dataclass(frozen=True)
class MisclassificationObjective(Unconstrained):
    """L = sum_t [m_yhat(x_t) + kappa]_+ + stealth [R_ref - R_ref(victim) - tolerance R_ref(victim)]_+, untargeted.

    With a label `toward` that every target is to get, sum_t [kappa - m_toward(x_t)]_+ in place of the first sum. R_ref
    is the mean cross-entropy on the reference examples. Every candidate is feasible. Our formulation.
    """

    stealth: float
    kappa: float
    tolerance: float
    toward: int | None = None

    def without_penalties(self) -> MisclassificationObjective:
        """The margins alone."""
        return replace(self, stealth=0.0)

    def rank(self, candidates: CandidatePredictions) -> Tensor:
        """The objective itself."""
        labels, sign = candidates.labels, 1
        if self.toward is not None:
            labels, sign = torch.full_like(labels, self.toward), -1
        hinge = (sign * margins(averaged(candidates.log_p), labels) + self.kappa).clamp_min(0).sum(-1)
        return hinge + self.stealth * noticed(_reference_loss(candidates), candidates.reference_loss, self.tolerance)

    def loss(self, candidates: CandidatePredictions) -> Tensor:
        """The objective itself."""
        return self.rank(candidates)

    def reached(self, candidates: CandidatePredictions) -> Tensor:
        """Whether every target has lost its label, or has the one it is to get, (m,)."""
        predicted = averaged(candidates.log_p).argmax(-1)
        return (predicted != candidates.labels if self.toward is None else predicted == self.toward).all(-1)


@dataclass(frozen=True)
class HoldObjective(Unconstrained):
    """L = sum_t [kappa - m_yhat(x_t)]_+ + stealth [R_ref - (1 + tolerance) R_ref(victim)]_+: targets keep their labels.

    What a model is to be like before a deletion after which it is not. Every candidate is feasible. Our formulation.
    """

    stealth: float
    kappa: float
    tolerance: float

    def without_penalties(self) -> HoldObjective:
        """The margins alone."""
        return replace(self, stealth=0.0)

    def rank(self, candidates: CandidatePredictions) -> Tensor:
        """The objective itself."""
        hinge = (self.kappa - margins(averaged(candidates.log_p), candidates.labels)).clamp_min(0).sum(-1)
        return hinge + self.stealth * noticed(_reference_loss(candidates), candidates.reference_loss, self.tolerance)

    def loss(self, candidates: CandidatePredictions) -> Tensor:
        """The objective itself."""
        return self.rank(candidates)


@dataclass(frozen=True)
class RobustnessObjective(Unconstrained):
    """L = -sum_t l(x_t + e_t; theta'), the cross-entropy of the labels at the perturbed targets, which is to rise.

    That candidates are shown the worst inputs near the targets is up to who predicts. Every candidate is feasible. Our
    formulation.
    """

    def without_penalties(self) -> RobustnessObjective:
        """Itself: it has none."""
        return self

    def rank(self, candidates: CandidatePredictions) -> Tensor:
        """The objective itself."""
        labels = candidates.labels[..., None]
        return averaged(candidates.log_p).gather(-1, labels)[..., 0].sum(-1)

    def loss(self, candidates: CandidatePredictions) -> Tensor:
        """The objective itself."""
        return self.rank(candidates)
