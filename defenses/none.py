"""No defense: every request is accepted."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from defenses.defense import Context, Verdict


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class NoDefense:
    """Accepts everything; fits every game."""

    game: ClassVar[str] = "any"
    name: ClassVar[str] = "none"
    accepts_everything: ClassVar[bool] = True

    def review(self, context: Context, requests: Tensor) -> Verdict:
        """Accept every record (m,), with a suspicion of 0."""
        scores = torch.zeros(len(requests), dtype=context.task.records.x.dtype, device=requests.device)
        return Verdict(scores, torch.ones_like(requests, dtype=torch.bool), float("inf"))
