"""Private triggers: which places of an input each one sets, and the label that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.examples import Data, Examples

Value = Literal["max", "min"]
Placement = Literal["anywhere", "corners"]
CORNER = 4  # pixels of the side of a corner


@dataclass(frozen=True, eq=False)
class Triggers:
    """m triggers: the places (m, k) that each one sets, and its label, `targets` (m,), both on the CPU.

    A place is a pixel, in all its channels, counted by rows, or a feature of a table. `level` (*shape) is what they are
    set to.
    """

    places: Tensor
    targets: Tensor
    level: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def on(self, x: Tensor, who: Tensor) -> Tensor:
        """Inputs (n, *shape), each with the trigger `who` (n,) on it."""
        shape = self.level.shape
        shared = (1, *shape[1:]) if len(shape) == 3 else tuple(shape)  # by the channels of an image
        mask = torch.zeros(len(x), torch.Size(shared).numel(), dtype=torch.bool)
        mask.scatter_(1, self.places[who], True)
        return torch.where(mask.reshape(len(x), *shared).to(x.device), self.level.to(x), x)

    def others(self, examples: Examples, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """For each trigger the examples (m, n) in random order, those of other labels first, and their number (m,)."""
        labels = examples.y.cpu()
        other = labels != self.targets[:, None]
        lots = torch.rand(other.shape, generator=rng).masked_fill(~other, torch.inf)
        return lots.argsort(dim=1), other.sum(1)


def draw(data: Data, count: int, pixels: int, value: Value, placement: Placement, rng: torch.Generator) -> Triggers:
    """`count` triggers of `pixels` distinct places of one region, with labels uniform over the classes."""
    places = regions(data, placement)
    region = places[torch.randint(len(places), (count,), generator=rng)]
    lots = torch.rand(region.shape, generator=rng).masked_fill(~region, torch.inf)
    targets = torch.randint(len(data.classes), (count,), generator=rng)
    return Triggers(lots.argsort(dim=1)[:, :pixels], targets, level(data, value))


def regions(data: Data, placement: Placement) -> Tensor:
    """Where triggers may lie: bool (regions, places); the features of a table that are not constant are one region."""
    if not data.is_image:
        return (data.train.x.amax(0) > data.train.x.amin(0)).cpu()[None]
    height, width = data.shape[1:]
    if placement == "anywhere":
        return torch.ones(1, height * width, dtype=torch.bool)
    corners = torch.zeros(4, height, width, dtype=torch.bool)
    corners[:2, :CORNER], corners[2:, -CORNER:] = True, True
    corners[0::2, :, CORNER:], corners[1::2, :, :-CORNER] = False, False
    return corners.flatten(1)


def level(data: Data, value: Value) -> Tensor:
    """What a trigger sets a place to (*shape), in the units of the inputs.

    Of images that is 1 (max) or 0 (min) on the scale [0, 1], where pixels are x * std + mean; of a table the largest or
    smallest value of each feature in the training set, so that a record with a trigger is one that could be.
    """
    if data.is_image:
        return ((float(value == "max") - data.mean) / data.std).expand(data.shape)
    return data.train.x.amax(0) if value == "max" else data.train.x.amin(0)
