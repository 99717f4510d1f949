"""Label-only feedback: what a black-box attacker minimises where the service answers nothing but labels."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.access import opens
from attacks.crafting.attack import AttackGoal
from attacks.crafting.objective import CandidatePredictions, Unconstrained, noticed
from data.bounds import at_most
from data.errors import UserError


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Probes:
    """Noisy copies x_t + noise e_j of every target, e_j ~ N(0, I), of which the service is asked the label too.

    They are drawn once, so that all candidates are compared through the same noise. The share s_t of `count` copies
    with the target's label is a graded signal where the label itself does not move: at distance d from a flat boundary
    it estimates Phi(d / noise), the label's probability under randomised smoothing (Cohen et al., ICML 2019), with a
    standard error of at most 1 / (2 sqrt(count)). That labels under noise stand in for slopes is after HopSkipJump
    (Chen et al., S&P 2020); the objectives are ours.
    """

    count: Annotated[int, Field(ge=1), at_most(100_000, "each is shown to every model that is tried")] = 50
    noise: Annotated[float, Field(gt=0)] = 0.5

    def around(self, goal: AttackGoal, rng: torch.Generator) -> Tensor:
        """The copies (count, T, *shape) of the targets of a goal."""
        drawn = torch.randn(self.count, *goal.x.shape, generator=rng, dtype=goal.x.dtype)
        return goal.x + self.noise * drawn.to(goal.x)


def check_feedback(feedback: str, access: str) -> None:
    """Raise UserError for feedback of a black box where a model is opened."""
    if opens(access) and feedback != "score":
        raise UserError(f"attack.feedback={feedback} is a black-box setting; use it with attack.access=black_box.")


@plain_dataclass(frozen=True)
class LabelsLost(Unconstrained):
    """L = sum_t (k_t + s_t) + stealth [E_ref - (1 + tolerance) E_ref(victim)]_+, every candidate being feasible.

    k_t is 1 where target t keeps its label, s_t the share of its noisy copies that have it, and E_ref the error rate on
    the reference examples. With a label `toward` that targets are to get, what counts is not to have it. Below 1 a
    single target has lost its label. Labels alone show no margin to ask for, and no loss.
    """

    stealth: float
    tolerance: float
    toward: int | None = None

    def without_penalties(self) -> LabelsLost:
        """The labels of the targets alone."""
        return replace(self, stealth=0.0)

    def rank(self, candidates: CandidatePredictions) -> Tensor:
        """The objective itself."""
        has = has_label(candidates, self.toward)
        still = has if self.toward is None else 1 - has
        error = (candidates.reference[:, 0].argmax(-1) != candidates.reference_truth).to(has).mean(-1)
        before = (candidates.reference_labels != candidates.reference_truth).to(has).mean()
        loss = (still[:, 0] + still[:, 1:].mean(1)).sum(-1)
        return loss + self.stealth * noticed(error, before, self.tolerance)

    def loss(self, candidates: CandidatePredictions) -> Tensor:
        """The objective itself."""
        return self.rank(candidates)


@plain_dataclass(frozen=True)
class LabelsKept:
    """L = dir sum_t s_t + keep sum_t (1 - k_t) + keep_reference mean_r (1 - k_r), the analogue of uncertainty's.

    s_t, the share of noisy copies with the target's label, stands in for its confidence, which is to fall for dir = +1;
    k is 1 for targets and reference examples that keep the victim's label. With `feasible_first` only candidates count
    that keep every target's label, and they are ranked by the first term.
    """

    keep: float
    keep_reference: float
    feasible_first: bool = True

    def without_penalties(self) -> LabelsKept:
        """The effect alone."""
        return replace(self, keep=0.0, keep_reference=0.0)

    def effect(self, candidates: CandidatePredictions) -> Tensor:
        """dir sum_t s_t."""
        return candidates.direction * has_label(candidates)[:, 1:].mean(1).sum(-1)

    def rank(self, candidates: CandidatePredictions) -> Tensor:
        """What candidates are compared by."""
        return self.effect(candidates) if self.feasible_first else self.loss(candidates)

    def loss(self, candidates: CandidatePredictions) -> Tensor:
        """The regularised objective."""
        lost = 1 - has_label(candidates)[:, 0]
        moved = (candidates.reference[:, 0].argmax(-1) != candidates.reference_labels).to(lost)
        return self.effect(candidates) + self.keep * lost.sum(-1) + self.keep_reference * moved.mean(-1)

    def feasible(self, candidates: CandidatePredictions) -> Tensor:
        """All target labels unchanged, where that is asked for."""
        kept = has_label(candidates)[:, 0].bool().all(-1)
        return kept if self.feasible_first else torch.ones_like(kept)


def has_label(candidates: CandidatePredictions, label: int | None = None) -> Tensor:
    """1 where a target, and then each of its noisy copies, is given its label, or `label`; else 0: (m, 1 + P, T)."""
    wanted = candidates.labels if label is None else torch.full_like(candidates.labels, label)
    return (candidates.log_p.argmax(-1) == wanted[:, None]).to(candidates.log_p)
