"""Gradient-influence filter: quarantine the requests whose gradients pay for where the model moved."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import grad

from data.errors import UserError
from data.examples import Examples
from defenses.defense import Context, Verdict
from metrics.conformal import rank
from metrics.detection import calibrated_threshold, robust_threshold
from models.gradients import (
    CHUNK,
    gradient_norms,
    gradients_at_once,
    inner_products,
    per_example_gradients,
    weighted_gradient,
)
from models.influence import inverse_curvature
from models.passes import rows_at_once
from models.solver import Solver
from models.victim import Tensors, Victim, flatten, forward

Score = Literal["S1", "S1'", "S2", "S3", "S5", "S6", "S8"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Influence:
    """Scores of a request i, with d = theta' - theta, g_i = grad l_i(theta) and B a preconditioner:

    S1 displacement <grad l_i(theta'), d> (default; on the unlearned model); S1' loss gap l_i(theta') - l_i(theta); S2
    <g_i, B sum_j g_j>; S3 |<B grad L_val, g_i>| on the trusted examples (`signed` drops the modulus); S5 <B grad mean
    entropy, g_i> in nats, likewise; S6 1 - cos(g_i, mean gradient of class y_i without the request); S8 ||g_i||.
    `preconditioner`: inverse_curvature (solved by `solver`) or identity (tau = 1/n).
    Decision: flag iff score > threshold. `rule` calibrated takes the ceil((n_c+1)(1-rate))-th smallest benign
    calibration score; robust_z takes median + z 1.4826 MAD of them.
    Source: Qian et al., KDD 2023 (filtering by gradient influence); scores and rules are our formulations of it.
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "influence"
    score: Score = "S1"
    rule: Literal["calibrated", "robust_z"] = "calibrated"
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    z: Annotated[float, Field(gt=0)] = 3.5
    signed: bool = False
    preconditioner: Literal["inverse_curvature", "identity"] = "inverse_curvature"
    solver: Solver = Field(default_factory=Solver)

    def scores(self, context: Context, requests: Tensor) -> Tensor:
        """Suspicion of each record at positions `requests` (m,); inner products with one vector are one jvp."""
        requested = context.unlearned(requests)
        if self.score == "S1":
            displacement = context.candidate.flat() - context.victim.flat()
            return inner_products(context.candidate, requested, displacement)
        if self.score == "S1'":
            return _loss(context.candidate, requested) - _loss(context.victim, requested)
        if self.score == "S6":
            return _class_dissimilarity(context, requests)
        if self.score == "S8":
            return gradient_norms(context.victim, requested)
        scores = inner_products(context.victim, requested, self._direction(context, requested))
        return scores if self.signed or self.score == "S2" else scores.abs()

    def review(self, context: Context, requests: Tensor) -> Verdict:
        """Accept or quarantine each requested record (m,) of one batch."""
        scores = self.scores(context, requests)
        threshold = self.threshold(context) if context.threshold is None else context.threshold
        return Verdict(scores, ~(scores > threshold), threshold)

    def threshold(self, context: Context) -> float:
        """The threshold from the calibration batches; raises UserError when there are too few benign scores for it."""
        found = [self._calibration_scores(context, i) for i in range(len(context.calibration))]
        self.check_calibration(sum(map(len, found)))
        benign = torch.cat(found)
        if self.rule == "calibrated":
            return float(calibrated_threshold(benign, self.rate))
        try:
            return robust_threshold(benign, self.z)
        except ValueError as error:
            raise UserError(f"{error} Raise game.stream.calibration_batches or use defense.rule=calibrated.") from error

    def check_calibration(self, scores: int) -> None:
        """Raise UserError where a threshold cannot be had from so many benign scores."""
        calibrated = self.rule == "calibrated"
        if scores == 0 or (calibrated and rank(scores, self.rate) > scores):
            wanted = f"defense.rate={self.rate}" if calibrated else "defense.rule=robust_z"
            raise UserError(
                f"{wanted} cannot be calibrated with {scores} benign scores; raise game.stream.calibration_batches."
            )

    def _calibration_scores(self, context: Context, batch: int) -> Tensor:
        calibration = context.calibration[batch]
        benign = Context(context.task, context.victim, calibration.candidate, context.trusted)
        return self.scores(benign, calibration.indices)

    def _direction(self, context: Context, requested: Examples) -> Tensor:
        """B grad psi (p,) for the functional psi of S2, S3 or S5."""
        victim, task = context.victim, context.task
        if self.score == "S2":
            slope = weighted_gradient(victim, requested, requested.x.new_ones(1, len(requested)))[0]
        elif self.score == "S3":
            share = requested.x.new_full((1, len(context.trusted)), 1 / len(context.trusted))
            slope = weighted_gradient(victim, context.trusted, share)[0]
        else:
            slope = _entropy_gradient(victim, context.trusted)
        if self.preconditioner == "identity":
            return slope / len(task.records)
        models, kept = victim.copies(1), task.total(slope.new_zeros(1, len(task.records)))
        decay = task.training.weight_decay
        solved = inverse_curvature(self.solver, models, task.records, kept, decay, slope[None], base=victim)
        return solved.x[0] / len(task.records)


def _loss(victim: Victim, examples: Examples) -> Tensor:
    return torch.nn.functional.cross_entropy(victim.logits(examples.x), examples.y, reduction="none")


def _entropy_gradient(victim: Victim, examples: Examples) -> Tensor:
    def entropy(parameters: Tensors, x: Tensor) -> Tensor:
        log_p = forward(victim.module, parameters, victim.buffers, x).log_softmax(-1)
        return -(log_p.exp() * log_p).sum()

    total = torch.zeros_like(victim.flat(), dtype=torch.float64)
    for x in examples.x.split(rows_at_once(victim, examples.x, CHUNK)):
        total += flatten(grad(entropy)(victim.moving, x)).detach()
    return (total / len(examples)).to(examples.x)


def _class_dissimilarity(context: Context, requests: Tensor) -> Tensor:
    """1 - cos(g_i, mean gradient of class y_i over the records outside the request), (m,)."""
    records = context.task.records
    outside = torch.ones(len(records), dtype=torch.bool, device=records.y.device)
    if context.task.forgotten is not None:
        outside &= context.task.forgotten.to(outside.device) == 0
    outside[requests] = False
    present = records.y[requests].unique()
    rows = torch.stack([(outside & (records.y == label)).to(records.x.dtype) for label in present])
    means = weighted_gradient(context.victim, records, rows / rows.sum(1, keepdim=True).clamp_min(1))
    row_of = torch.searchsorted(present, records.y[requests])
    chunk = gradients_at_once(context.victim, records.x)
    scores = []
    for part, row in zip(requests.split(chunk), row_of.split(chunk), strict=True):
        gradients = per_example_gradients(context.victim, records[part])
        scores.append(1 - torch.nn.functional.cosine_similarity(gradients, means[row], dim=1))
    return torch.cat(scores)
