"""Gradient-norm filter: quarantine the requests whose records the model finds hard."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor

from defenses.defense import Context
from defenses.filters.scored import STRICT, Scored
from models.gradients import gradient_norms


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Norm(Scored):
    """Score ||grad l_i(theta)||, of the copy where that is what is unlearned; no trial run is needed. Ours.

    A baseline: it is the score S8 of `defenses.filters.influence`, beside which every other one is reported.
    """

    name: ClassVar[str] = "norm"

    def scores(self, context: Context, requests: Tensor) -> Tensor:
        """||g_i|| (m,) of the requested records."""
        return gradient_norms(context.victim, context.unlearned(requests))
