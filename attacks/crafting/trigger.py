"""A trigger: the same mark on every input that it is put on."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most
from data.errors import UserError
from data.examples import bounds


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Patch:
    """The square of `size` x `size` pixels in the lower right corner of an image, or the last `size` features of a row.

    They are set to the largest value that the attacker's records take, by channel or feature. Source: Gu et al.
    ("BadNets", arXiv 1708.06733).
    """

    size: Annotated[int, Field(ge=1), at_most(10_000, "a trigger is a part of an input")] = 3

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise UserError where the patch would be the whole input, or more."""
        least = min(shape[1:]) if len(shape) == 3 else shape[0]
        if self.size >= least:
            raise UserError(f"attack.trigger.size={self.size} covers inputs of shape {shape}; lower it.")

    def on(self, x: Tensor, values: Tensor) -> Tensor:
        """Inputs (n, *shape) with the trigger; its value is the largest of `values` (m, *shape)."""
        high = bounds(values)[1].expand_as(x)
        mask = torch.zeros_like(x, dtype=torch.bool)
        mask[..., -self.size :] = True
        if x.dim() == 4:
            mask[..., : -self.size, :] = False
        return torch.where(mask, high, x)
