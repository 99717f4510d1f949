"""No defense: every request is accepted."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from defenses.defense import Context, Verdict
from defenses.verification import verification
from defenses.verification.verification import Case


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class NoDefense:
    """Accepts every request, believes every provider, and publishes every result as it is; fits every game."""

    game: ClassVar[str] = "any"
    name: ClassVar[str] = "none"
    accepts_everything: ClassVar[bool] = True

    def review(self, context: Context, requests: Tensor) -> Verdict:
        """Accept every record (m,), with a suspicion of 0."""
        scores = torch.zeros(len(requests), dtype=context.task.records.x.dtype, device=requests.device)
        return Verdict(scores, torch.ones_like(requests, dtype=torch.bool), float("inf"))

    def verify(self, case: Case) -> verification.Verdict:
        """Believe every provider."""
        return verification.Verdict(
            passed=True, statistic=0.0, threshold=float("inf"), level=0.0, power=0.0, reason="Nobody verified."
        )

    def due(self, pending: int) -> bool:
        """Publish a result after every deletion."""
        return True

    def shown(self, exact: Tensor, rng: torch.Generator) -> Tensor:
        """The result as it is."""
        return exact
