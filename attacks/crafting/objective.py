"""What an attack minimises, written once for white-box search (differentiable) and black-box search (values only)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from attacks.crafting.functionals import Functional, averaged, margins


@dataclass(frozen=True, eq=False)
class CandidatePredictions:
    """Predictions of m candidate models, each for one aim, with what is compared with.

    `log_p` (m, S, T, K) on the aim's targets, `labels` (m, T), `direction` (m,); `reference` (m, S, R, K) on the
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
        """Whether every target of the aim still has the victim's label, (m,)."""
        return (averaged(self.log_p).argmax(-1) == self.labels).all(-1)


class Objective(Protocol):
    """`loss` guides the search, `rank` is compared among candidates that are `feasible`; all (m,), lower is better.

    `without_penalties()` is the objective whose loss is what the attacker wants alone.
    """

    def without_penalties(self) -> Objective: ...
    def loss(self, outlook: CandidatePredictions) -> Tensor: ...
    def rank(self, outlook: CandidatePredictions) -> Tensor: ...
    def feasible(self, outlook: CandidatePredictions) -> Tensor: ...


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

    def rank(self, outlook: CandidatePredictions) -> Tensor:
        """What candidates are compared by."""
        return self.effect(outlook) if self.feasible_first else self.loss(outlook)

    def effect(self, outlook: CandidatePredictions) -> Tensor:
        """-dir sum_t u(x_t)."""
        calibration = (outlook.reference, outlook.reference_truth) if self.functional.calibrated else None
        return -outlook.direction * self.functional(outlook.log_p, outlook.labels, calibration).sum(-1)

    def loss(self, outlook: CandidatePredictions) -> Tensor:
        """The regularised objective."""
        target = (self.kappa - margins(averaged(outlook.log_p), outlook.labels)).clamp_min(0).sum(-1)
        reference = (self.kappa - margins(averaged(outlook.reference), outlook.reference_labels)).clamp_min(0).mean(-1)
        return self.effect(outlook) + self.keep * target + self.keep_reference * reference

    def feasible(self, outlook: CandidatePredictions) -> Tensor:
        """All target labels unchanged, where that is asked for."""
        kept = outlook.kept()
        return kept if self.feasible_first else torch.ones_like(kept)


@dataclass(frozen=True)
class MisclassificationObjective:
    """L = sum_t [m_yhat(x_t) + kappa]_+ + stealth [R_ref - R_ref(victim) - tolerance R_ref(victim)]_+, untargeted.

    R_ref is the mean cross-entropy on the reference examples. Every candidate is feasible. Our formulation.
    """

    stealth: float
    kappa: float
    tolerance: float

    def without_penalties(self) -> MisclassificationObjective:
        """The margins alone."""
        return replace(self, stealth=0.0)

    def rank(self, outlook: CandidatePredictions) -> Tensor:
        """The objective itself."""
        hinge = (margins(averaged(outlook.log_p), outlook.labels) + self.kappa).clamp_min(0).sum(-1)
        truth = outlook.reference_truth[..., None].expand(len(hinge), -1, 1)
        loss = -averaged(outlook.reference).gather(-1, truth)[..., 0].mean(-1)
        return hinge + self.stealth * (loss - (1 + self.tolerance) * outlook.reference_loss).clamp_min(0)

    def loss(self, outlook: CandidatePredictions) -> Tensor:
        """The objective itself."""
        return self.rank(outlook)

    def feasible(self, outlook: CandidatePredictions) -> Tensor:
        """Always."""
        return torch.ones(len(outlook.log_p), dtype=torch.bool, device=outlook.log_p.device)
