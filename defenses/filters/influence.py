"""Gradient-influence filter: quarantine the requests whose gradients pay for where the model moved."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import grad

from data.errors import UserError
from data.examples import Examples
from defenses.defense import Context
from defenses.filters.class_gradients import from_class_mean
from defenses.filters.effects import Preconditioner, on_most_moved, preconditioned, summed_gradient
from defenses.filters.scored import STRICT, Scored
from models.gradients import (
    CHUNK,
    gradient_norms,
    gradients_at_once,
    inner_products,
    per_example_gradients,
    weighted_gradient,
)
from models.passes import models_at_once, rows_at_once
from models.solver import Solver
from models.victim import Tensors, Victim, flatten, forward

Score = Literal["S1", "S1'", "S2", "S3", "S4", "S5", "S6", "S7", "S8"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Influence(Scored):
    """Scores of a request i, with d = theta' - theta, g_i = grad l_i(theta) and B a preconditioner:

    S1 displacement <grad l_i(theta'), d> (default; on the unlearned model); S1' loss gap l_i(theta') - l_i(theta); S2
    <g_i, B sum_j g_j>; S3 |<B grad L_val, g_i>| on the trusted examples (`signed` drops the modulus); S4 the share of i
    in the largest first-order move of a trusted example's margin (`defenses.filters.effects.on_most_moved`); S5
    <B grad mean entropy, g_i> in nats, as S3; S6 1 - cos(g_i, mean gradient of class y_i without the request); S7
    coherence, the cosine of B^{1/2} g_i with B^{1/2} sum_{j != i} g_j; S8 ||g_i||. Where copies of records are what is
    unlearned, l_i is the loss of the copy.
    `preconditioner`: inverse_curvature (solved by `solver`; S7 takes a solve for every request) or identity (B = 1/n).
    Decision: flag iff score > threshold, from benign calibration batches by `rule` (`defenses.filters.scored.Scored`).
    Source: Qian et al., KDD 2023 (filtering by gradient influence); scores and rules are our formulations of it.
    """

    name: ClassVar[str] = "influence"
    score: Score = "S1"
    signed: bool = False
    preconditioner: Preconditioner = "inverse_curvature"
    solver: Solver = Field(default_factory=Solver)

    def scores(self, context: Context, requests: Tensor) -> Tensor:
        """Suspicion of each record at positions `requests` (m,).

        Raises UserError where one is not finite, as on a model that unlearning, or training, has ruined.
        """
        found = self._scores(context, requests)
        if not bool(torch.isfinite(found).all()):
            raise UserError(
                f"Score {self.score} of {len(requests)} requested records is not finite: gradients leave "
                f"the range of {str(found.dtype).removeprefix('torch.')}, so the victim or the model after unlearning "
                "is ruined; make steps smaller (settings of the groups unlearning and training)."
            )
        return found

    def _scores(self, context: Context, requests: Tensor) -> Tensor:
        """The same, whatever they are; inner products with one vector are one jvp."""
        requested, victim = context.unlearned(requests), context.victim
        match self.score:
            case "S1":
                return inner_products(context.candidate, requested, context.candidate.flat() - victim.flat())
            case "S1'":
                return _loss(context.candidate, requested) - _loss(victim, requested)
            case "S4":
                return on_most_moved(context, requested, self.preconditioner, self.solver)
            case "S6":
                return from_class_mean(context, requests)
            case "S7":
                return self._coherence(context, requested)
            case "S8":
                return gradient_norms(victim, requested)
        direction = self._preconditioned(context, self._slope(context, requested)[None])[0]
        scores = inner_products(victim, requested, direction)
        return scores if self.signed or self.score == "S2" else scores.abs()

    def _preconditioned(self, context: Context, vectors: Tensor) -> Tensor:
        return preconditioned(context, vectors, self.preconditioner, self.solver)

    def _slope(self, context: Context, requested: Examples) -> Tensor:
        """grad psi (p,) for the functional psi of S2, S3 or S5."""
        if self.score == "S2":
            return summed_gradient(context.victim, requested)
        if self.score == "S5":
            return _entropy_gradient(context.victim, context.trusted)
        share = requested.x.new_full((1, len(context.trusted)), 1 / len(context.trusted))
        return weighted_gradient(context.victim, context.trusted, share)[0]

    def _coherence(self, context: Context, requested: Examples) -> Tensor:
        """<g_i, B s_i> / sqrt(<g_i, B g_i> <s_i, B s_i>) with s_i = sum_{j != i} g_j (m,); of a single request 0.

        No root of B is needed, and s_i is a difference of vectors, not of their squares, which would cancel where one
        gradient is much longer than the others.
        """
        victim = context.victim
        if len(requested) < 2:
            return requested.x.new_zeros(len(requested))
        total = summed_gradient(victim, requested)
        moved = self._preconditioned(context, total[None])[0]
        size, scores = min(gradients_at_once(victim, requested.x), models_at_once(victim)), []
        for first in range(0, len(requested), size):
            own = per_example_gradients(victim, requested[slice(first, first + size)])
            solved = self._preconditioned(context, own)
            inner, others = (own * (moved - solved)).sum(1), ((total - own) * (moved - solved)).sum(1)
            lengths = ((own * solved).sum(1).clamp_min(0) * others.clamp_min(0)).sqrt()
            scores.append(inner / lengths.clamp_min(torch.finfo(lengths.dtype).tiny))
        return torch.cat(scores)


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
