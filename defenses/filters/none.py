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

    def scores(self, context: Context, indices: Tensor) -> Tensor:
        """Zero for every record (m,): nothing is suspicious."""
        return torch.zeros(len(indices), dtype=context.task.records.x.dtype, device=indices.device)

    def review(self, context: Context, indices: Tensor) -> Verdict:
        """Accept every record (m,)."""
        return Verdict(
            self.scores(context, indices), torch.ones_like(indices, dtype=torch.bool), self.threshold(context)
        )

    def threshold(self, context: Context) -> float:
        """No score is too high."""
        return float("inf")
