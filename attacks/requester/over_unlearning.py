"""Over-unlearning: copies near the decision boundary, so that unlearning them takes more than their records."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.criterion import Criterion, LabelFlipped
from attacks.crafting.requester import OPTIONS, Requester
from data.bounds import at_most
from data.examples import Examples, bounds
from unlearning.procedure import Request
from unlearning.service import Predictor, Service

NUMBERS = 2**24  # of the inputs that are asked for at once, to either side
Method = Literal["blending", "pushing_1", "pushing_2"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class OverUnlearning(Requester):
    """Up to `budget` records of the class that most of the goal's targets are predicted to have, with copies x~.

    blending: x~ = (1 - `ratio`) x + `ratio` x_b, x_b one of the attacker's records of another class. pushing: from x
    towards the boundary, by steps of length `step` against the slope of the margin m_t(x) = log p_t - max_k log p_k in
    the class t that is predicted for x (the aim of Carlini and Wagner, S&P 2017, with slopes from predicted
    probabilities, as in ZOO, Chen et al., AISec 2017): pushing_1 takes the last point before the label changes,
    pushing_2 the first after. Points stay within `radius` of their record, in l2, and within the values that records
    take. A record whose label does not change within `steps` is submitted where it came to by pushing_1, and left out
    by pushing_2. Slopes are those along `directions` Gaussian directions, or along every axis (null), as differences
    over 2 `smoothing`. The label that is submitted is what the model predicts for the copy. Only predictions are asked
    for: no query.

    With a procedure that computes with the copies, accuracy on the class falls below that of unlearning the records
    themselves; that is what over-unlearning means. Source: Hu et al., NDSS 2024, arXiv 2309.08230.
    """

    name: ClassVar[str] = "over_unlearning"
    criterion: ClassVar[Criterion] = LabelFlipped()
    method: Method = "pushing_1"
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
    radius: Annotated[float, Field(gt=0)] = 20.0
    steps: Annotated[int, Field(ge=1), at_most(100_000, "each asks for predictions")] = 200
    step: Annotated[float, Field(gt=0)] = 0.1
    directions: Annotated[int, Field(ge=1), at_most(100_000, "all are tried at once")] | None = 20
    smoothing: Annotated[float, Field(gt=0)] = 1e-3

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """The records of one class, in random order, with their copies."""
        label = int(goal.labels.mode().values)
        own = (attacker.owned.y == label).nonzero()[:, 0]
        rows = own[torch.randperm(len(own), generator=rng)[: self.budget].to(own.device)]
        stored = attacker.owned[rows]
        if self.method == "blending":
            others = (attacker.owned.y != label).nonzero()[:, 0]
            drawn = others[torch.randint(len(others), (len(rows),), generator=rng).to(others.device)]
            copies, kept = torch.lerp(stored.x, attacker.owned.x[drawn], self.ratio), torch.ones_like(rows).bool()
        else:
            copies, kept = self._pushed(service, stored.x, attacker.owned.x, rng)
        copies, rows = copies[kept], rows[kept]
        submitted = Examples(copies, service.predict(copies).argmax(-1)) if len(rows) else None
        return AttackResult(Request(tuple(attacker.pool[rows].tolist()), submitted), float("nan"))

    def _pushed(self, model: Predictor, x: Tensor, values: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (k, *shape) from `x` (k, *shape) just before, or after, the boundary; which of them got there (k,)."""
        low, high = bounds(values)
        label, there = model.predict(x).argmax(-1), x.clone()
        crossed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in range(self.steps):
            left = (~crossed).nonzero()[:, 0]
            if len(left) == 0:
                break
            slopes = self._slopes(model, there[left], label[left], rng)
            away = there[left] - self.step * slopes / _lengths(slopes).clamp_min(torch.finfo(x.dtype).tiny) - x[left]
            away = away * (self.radius / _lengths(away).clamp_min(self.radius))
            moved = torch.minimum(torch.maximum(x[left] + away, low), high)
            over = model.predict(moved).argmax(-1) != label[left]
            takes = ~over if self.method == "pushing_1" else torch.ones_like(over)
            there[left[takes]] = moved[takes]
            crossed[left[over]] = True
        return there, crossed if self.method == "pushing_2" else torch.ones_like(crossed)

    def _slopes(self, model: Predictor, x: Tensor, label: Tensor, rng: torch.Generator) -> Tensor:
        """The slope of every point's own margin (k, *shape), estimated; all points are asked for together."""
        flat, total = x.flatten(1), torch.zeros_like(x)
        count = flat.shape[1] if self.directions is None else self.directions
        at_once = max(1, NUMBERS // flat.numel())
        for first in range(0, count, at_once):
            part = min(at_once, count - first)
            if self.directions is None:
                u = torch.eye(count, dtype=x.dtype, device=x.device)[first : first + part, None]
            else:
                u = torch.randn(part, *flat.shape, generator=rng, dtype=x.dtype).to(x.device)
            sides = [(flat + sign * self.smoothing * u).reshape(-1, *x.shape[1:]) for sign in (1, -1)]
            plus, minus = (_margins(model, side, label.repeat(part)).reshape(part, len(x), 1) for side in sides)
            total += ((plus - minus) / (2 * self.smoothing) * u).sum(0).reshape(x.shape)
        return total


def _margins(model: Predictor, x: Tensor, label: Tensor) -> Tensor:
    """log p_label - the largest other log p, (k,)."""
    p = model.predict(x)
    log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()
    own = log_p.gather(1, label[:, None])[:, 0]
    return own - log_p.scatter(1, label[:, None], -torch.inf).amax(1)


def _lengths(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))
