"""Clipping of rows: the server bounds the norm of every record that it is handed, before it trains."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from defenses.defense import Context, Verdict, accept_everything
from defenses.filters.scored import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClipRows:
    """Every training record x becomes x min(1, r / ||x||), Euclidean, in units of what enters the model.

    r is the `quantile` of the norms of all records that were handed in, an attacker's among them (the median moves
    little while most are not), or a `radius` that is set. Nothing is quarantined: it acts before training
    (`defenses.provider.Prepares`), on everybody's records alike, and so costs accuracy without an attack too.
    Against records that were moved so that their deletion moves the model far, and uses up the budget of certified
    removal: its bound on the gradient that a deletion leaves behind grows with the norms of records and with the step.
    Inputs at test time, trusted examples and copies that a request brings are not clipped: the deployed model is the
    one that was trained, no prediction has to go through the server's radius, and accuracy is measured with the whole
    price of clipping, a training set that is distributed otherwise than the inputs.
    Source: a bound on the norm of records is what the guarantee of Guo et al., ICML 2020, starts from; clipping to a
    quantile as a defense against slow-down is ours.
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "clip_rows"
    accepts_everything: ClassVar[bool] = True
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.5
    radius: Annotated[float, Field(gt=0)] | None = None

    def prepare(self, records: Examples) -> Examples:
        """The records (n, *shape) with clipped inputs; raises UserError where nothing would be left of them."""
        norms = records.x.flatten(1).norm(dim=1)
        radius = norms.quantile(self.quantile) if self.radius is None else norms.new_tensor(self.radius)
        if float(radius) == 0 and bool(norms.any()):
            raise UserError(f"defense.quantile={self.quantile:g} of the norms of records is 0; set defense.radius.")
        scale = torch.where(norms > radius, radius / norms, 1)
        return Examples(records.x * scale.reshape(-1, *[1] * (records.x.dim() - 1)), records.y)

    def review(self, context: Context, requests: Tensor) -> Verdict:
        """Accept every record (m,), with a suspicion of 0."""
        return accept_everything(requests)
