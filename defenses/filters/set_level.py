"""Set-level filter: is this batch, as a whole, a random one? If not, quarantine the part that is ranked highest."""

from __future__ import annotations

from math import ceil
from typing import Annotated, ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most
from data.errors import UserError
from data.examples import Examples
from defenses.defense import Context, Verdict
from defenses.filters.effects import Preconditioner, on_margin
from defenses.filters.influence import Influence
from defenses.filters.scored import STRICT, Rate
from defenses.filters.trusted_points import Null, batch_effects, null_of
from metrics.conformal import rank
from metrics.detection import calibrated_threshold
from models.solver import Solver
from models.victim import Victim

Known = tuple[tuple[object, ...], tuple[Tensor, ...], Null]  # what a null depends on, and the tensors that this names
_nulls: WeakKeyDictionary[Victim, list[Known]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SetLevel:
    """Two stages: flag the batch by Zmax, then quarantine the `share` of it that the score `ranking` puts highest.

    Zmax = max_j |A_j - E A_j| / sd_j over at most `points` trusted examples j, with A_j the first-order effect of the
    batch on the margin at j, and moments of a random request of that size (`defenses.filters.trusted_points`). Its
    threshold is the ceil((s+1)(1-rate))-th smallest Zmax of s = `sets` simulated random requests of the size of the
    batch, drawn from all stored records: a random batch is flagged with a probability of at most `rate`.
    `ranking`: S1 as in `defenses.filters.influence`, or S4, the share of a request in the move of the margin at the j
    of Zmax. The score of a request is Zmax if it is among the highest ranked, else 0; it is quarantined iff its score
    exceeds the threshold.
    The moments take one solve for every trusted example and are computed once for a victim and a size of batches: for
    large networks choose fewer `points`, `solver.layers: last`, or `preconditioner: identity` (B = 1/n).
    Source: our formulation of filtering by gradient influence (Qian et al., KDD 2023) as a test of whole batches.
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "set_level"
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
        threshold = float(calibrated_threshold(self.null(context, len(requests)).maxima, self.rate))
        moved = self.standardised(context, requests)
        ranked = self._ranked(context, requests, moved)
        scores = torch.zeros_like(moved[:1]).repeat(len(ranked))
        scores[ranked.topk(ceil(self.share * len(ranked))).indices] = moved.abs().max()
        return Verdict(scores, ~(scores > threshold), threshold)

    def _ranked(self, context: Context, requests: Tensor, moved: Tensor) -> Tensor:
        """The scores (m,) by which requests are ranked; `moved` (t,) is what gives Zmax."""
        if self.ranking == "S1":
            return Influence(score="S1").scores(context, requests)
        most, points = moved.abs().argmax()[None], self._points(context)
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
        """What random requests of `size` records do, computed once for a victim."""
        points, task = self._points(context), context.task
        tensors = tuple(each for each in (points.x, task.records.x, task.records.y, task.forgotten) if each is not None)
        depends = (
            size, self.sets, self.preconditioner, self.solver,
            *((each.data_ptr(), each.shape, each._version) for each in tensors),
        )  # fmt: skip
        known = _nulls.setdefault(context.victim, [])
        for before, _, null in known:
            if before == depends:
                return null
        null = null_of(context, points, size, self.sets, self.preconditioner, self.solver)
        known.append((depends, tensors, null))  # kept alive, no other tensor gets their places in memory
        return null

    def _points(self, context: Context) -> Examples:
        return context.trusted[: self.points]
