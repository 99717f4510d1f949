"""Set-level filter: is this batch, as a whole, a random one? If not, quarantine the part that is ranked highest."""

from __future__ import annotations

from math import ceil
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most
from data.errors import UserError
from data.examples import Examples
from defenses.defense import Context, Verdict
from defenses.filters.coherence import coherence, random_coherences
from defenses.filters.effects import Preconditioner, on_margin
from defenses.filters.influence import Influence
from defenses.filters.scored import STRICT, Rate
from defenses.filters.trusted_points import Null, batch_effects, null_of, once
from metrics.conformal import rank
from metrics.detection import calibrated_threshold
from models.solver import Solver


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SetLevel:
    """Two stages: flag the batch by a `statistic`, then quarantine the `share` of it that `ranking` puts highest.

    Zmax = max_j |A_j - E A_j| / sd_j over at most `points` trusted examples j, with A_j the first-order effect of the
    batch on the margin at j, and moments of a random request of that size (`defenses.filters.trusted_points`).
    C = ||sum_i g_i||_B^2 / sum_i ||g_i||_B^2, whether gradients add up (`defenses.filters.coherence`); it looks at no
    trusted example. The threshold of either is the ceil((s+1)(1-rate))-th smallest of its values at s = `sets`
    simulated random requests of the size of the batch, drawn from all stored records: a random batch is flagged with a
    probability of at most `rate`.
    `ranking`: S1 as in `defenses.filters.influence`, or S4, the share of a request in the move of the margin at the j
    of Zmax. The score of a request is the statistic if it is among the highest ranked, else 0; it is quarantined iff
    its score exceeds the threshold.
    Zmax takes one solve for every trusted example, C one for every stored record and every simulated request, once for
    a victim and a size of batches: for large networks choose fewer `points` or `sets`, `solver.layers: last`, or
    `preconditioner: identity` (B = 1/n).
    Source: our formulation of filtering by gradient influence (Qian et al., KDD 2023) as a test of whole batches.
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "set_level"
    statistic: Literal["Zmax", "C"] = "Zmax"
    rate: Rate = 0.05
    sets: Annotated[int, Field(ge=1), at_most(1_000_000, "each is a request that is drawn")] = 2000
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    ranking: Literal["S1", "S4"] = "S1"
    points: Annotated[int, Field(ge=1), at_most(1_000_000, "each is a solve of its own")] = 500
    preconditioner: Preconditioner = "inverse_curvature"
    solver: Solver = Field(default_factory=lambda: Solver(method="auto"))

    def __post_init__(self) -> None:
        if rank(self.sets, self.rate) > self.sets:
            raise UserError(f"sets={self.sets} simulated requests are too few for rate={self.rate:g}; raise sets.")

    def review(self, context: Context, requests: Tensor) -> Verdict:
        """Accept the batch (m,), or quarantine the highest ranked ceil(share m) of it."""
        threshold = float(calibrated_threshold(self.of_random(context, len(requests)), self.rate))
        ranked = self._ranked(context, requests)
        scores = torch.zeros(len(ranked), dtype=torch.float64, device=ranked.device)
        scores[ranked.topk(ceil(self.share * len(ranked))).indices] = self.value(context, requests)
        return Verdict(scores, ~(scores > threshold), threshold)

    def value(self, context: Context, requests: Tensor) -> float:
        """The statistic of a batch (m,)."""
        if self.statistic == "C":
            return coherence(context, context.unlearned(requests), self.preconditioner, self.solver)
        return float(self.standardised(context, requests).abs().max())

    def of_random(self, context: Context, size: int) -> Tensor:
        """The statistic of simulated random requests of `size` records, (sets,), computed once for a victim."""
        if self.statistic == "Zmax":
            return self.null(context, size).maxima
        of = (size, self.sets, self.preconditioner, self.solver)
        return once(context, None, ("C", *of), lambda: random_coherences(context, *of))

    def _ranked(self, context: Context, requests: Tensor) -> Tensor:
        """The scores (m,) by which requests are ranked."""
        if self.ranking == "S1":
            return Influence(score="S1").scores(context, requests)
        moved, points = self.standardised(context, requests), self._points(context)
        most = moved.abs().argmax()[None]
        point, label = points[most], self.null(context, len(requests)).labels[most]
        shares = on_margin(context, context.unlearned(requests), point, label, self.preconditioner, self.solver)
        return moved[most].sign().to(shares) * shares

    def standardised(self, context: Context, requests: Tensor) -> Tensor:
        """(A_j - E A_j) / sd_j of a batch (m,) at every trusted example (t,); Zmax is its largest absolute value."""
        null, points = self.null(context, len(requests)), self._points(context)
        requested = context.unlearned(requests)
        effects = batch_effects(context, points, null.labels, requested, self.preconditioner, self.solver)
        return null.standardised(effects.double())

    def null(self, context: Context, size: int) -> Null:
        """What random requests of `size` records do to trusted examples, computed once for a victim."""
        points, of = self._points(context), (size, self.sets, self.preconditioner, self.solver)
        return once(context, points, ("Zmax", *of), lambda: null_of(context, points, *of))

    def _points(self, context: Context) -> Examples:
        return context.trusted[: self.points]
