"""Several filters, one after the other: a request is accepted only if every one of them accepts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from pydantic import ConfigDict, Field, SkipValidation
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError, called
from data.examples import Examples
from defenses.defense import Calibrated, Calibration, Context, Filter, Verdict, calibrated, reviewed
from defenses.filters.influence import Influence
from defenses.filters.membership_check import MembershipCheck

_thresholds: WeakKeyDictionary[Calibration, list[tuple[Calibrated, int, float]]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Chain:
    """The verdicts of `filters` on the whole batch, in their order.

    The score of a request is the number of filters that reject it, and the threshold 0: scores of different filters
    have no common scale. What is deleted `instead` of a request is what the first filter says that says something; the
    filters behind it see that stored record in place of the copy. The model after the batch is the one on trial, with
    the batch as it was sent. Every filter that has a threshold gets it from the same benign calibration, once. What one
    remembers of a sequence is of the whole batch, whatever the others reject.
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "chain"
    filters: SkipValidation[Sequence[Filter]] = Field(
        default_factory=lambda: (MembershipCheck(action="replace"), Influence())
    )

    def __post_init__(self) -> None:
        if not isinstance(self.filters, list | tuple) or not self.filters:
            raise UserError(
                f"filters must be a list of filters, as in [{{_target_: defenses.filters.norm.Norm}}], got "
                f"{self.filters!r:.60}."
            )
        for each in self.filters:
            if not callable(getattr(each, "review", None)) or isinstance(each, type):
                raise UserError(f"filters holds {each!r:.60}, which is no filter: it has no review(context, requests).")
            if getattr(each, "game", "request") not in ("request", "any"):
                raise UserError(f"filters holds {called(each)}, which plays the {each.game} game.")

    def review(self, context: Context, requests: Tensor) -> Verdict:
        """Accept what every filter accepts (m,)."""
        rejected = torch.zeros(len(requests), dtype=torch.float64, device=requests.device)
        instead: Tensor | None = None
        known, remembered = context.remembered, list[object]()
        before = known if isinstance(known, tuple) else (None,) * len(self.filters)
        for each, own in zip(self.filters, before, strict=True):
            threshold = _threshold(each, context) if isinstance(each, Calibrated) else None
            verdict = reviewed(each, replace(context, threshold=threshold, remembered=own), requests)
            remembered.append(verdict.remembered)
            rejected += (~verdict.accepted).to(rejected)
            if verdict.instead is not None:
                earlier = torch.full_like(requests, -1) if instead is None else instead
                instead = torch.where(earlier < 0, verdict.instead, earlier)
                context = _stored_in_place(context, instead)
        return Verdict(rejected, rejected == 0, 0.0, instead, tuple(remembered))

    def check_sequence(self, batches: int, size: int, records: int) -> None:
        """Raise UserError where one of the filters cannot judge sequences of so many batches of `size` of n records."""
        for each in self.filters:
            if hasattr(each, "check_sequence"):
                each.check_sequence(batches, size, records)

    def check_calibration(self, scores: int) -> None:
        """Raise UserError where one of the filters cannot be calibrated with so many benign scores."""
        for each in self.filters:
            if hasattr(each, "check_calibration"):
                each.check_calibration(scores)


def _stored_in_place(context: Context, instead: Tensor) -> Context:
    """The context with the stored records at `instead` (m,), where it is a position, as what was sent."""
    if context.submitted is None:
        return context
    sent, replaced = context.submitted, instead >= 0
    x, y = sent.x.clone(), sent.y.clone()
    x[replaced], y[replaced] = context.task.records.x[instead[replaced]], context.task.records.y[instead[replaced]]
    return replace(context, submitted=Examples(x, y))


def _threshold(part: Calibrated, context: Context) -> float:
    """The threshold of one filter, which is computed once for the calibration of a game."""
    if not context.calibration:
        return calibrated(part, context)
    known = _thresholds.setdefault(context.calibration[0], [])
    for other, batches, found in known:
        if other is part and batches == len(context.calibration):
            return found
    known.append((part, len(context.calibration), calibrated(part, context)))
    return known[-1][2]
