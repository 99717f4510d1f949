"""Filters that compare a score of every request with a threshold from benign requests: `Scored`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from defenses.defense import Context, Verdict
from metrics.conformal import rank
from metrics.detection import calibrated_threshold, robust_threshold

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Rule = Literal["calibrated", "robust_z"]
Rate = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Scored(ABC):
    """A filter that writes `scores`; a request is flagged iff its score > threshold.

    `rule` calibrated takes the ceil((n_c+1)(1-rate))-th smallest of the n_c scores of the benign calibration batches,
    so that an exchangeable benign request is flagged with a probability of at most `rate`; robust_z takes
    median + z 1.4826 MAD of them.
    """

    game: ClassVar[str] = "request"
    rule: Rule = "calibrated"
    rate: Rate = 0.05
    z: Annotated[float, Field(gt=0)] = 3.5

    @abstractmethod
    def scores(self, context: Context, requests: Tensor) -> Tensor:
        """Suspicion (m,) of each record at positions `requests` (m,), which are asked for in one batch."""

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
        check_count(scores, self.rate if self.rule == "calibrated" else None)

    def _calibration_scores(self, context: Context, batch: int) -> Tensor:
        calibration = context.calibration[batch]
        benign = Context(context.task, context.victim, calibration.candidate, context.trusted)
        return self.scores(benign, calibration.indices)


def check_count(scores: int, rate: float | None) -> None:
    """Raise UserError where so many benign scores give no threshold at `rate`; None is the rule robust_z."""
    if scores == 0 or (rate is not None and rank(scores, rate) > scores):
        wanted = "defense.rule=robust_z" if rate is None else f"defense.rate={rate}"
        raise UserError(
            f"{wanted} cannot be calibrated with {scores} benign scores; raise game.stream.calibration_batches."
        )
