"""Gradient-similarity filter: drop the requests whose gradient is unlike that of the medoid of their class."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor

from defenses.defense import Context
from defenses.filters.class_gradients import from_class_medoid
from defenses.filters.scored import STRICT, Scored


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Similarity(Scored):
    """Score 1 - cos(g_i, g of the medoid of class y_i), g_i = grad l_i(theta): isolated points lie far from a medoid.

    The medoid is the stored record of the class, outside the request, that is most like all others of its class in the
    cosine of gradients. Needs no trial run and no trusted examples. Records that are perturbed until their gradient is
    like that of their class pass.
    Source: after Qian et al., KDD 2023 (drop requested points whose gradient is dissimilar to those of their class);
    the score, its medoid and the threshold are our formulation.
    """

    name: ClassVar[str] = "similarity"

    def scores(self, context: Context, requests: Tensor) -> Tensor:
        """Dissimilarity (m,) in [0, 2]."""
        return from_class_medoid(context, requests)
