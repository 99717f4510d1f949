"""The nouns of data: `Examples` (inputs with labels) and `Data` (a data set, split for a game)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.errors import UserError


@dataclass(frozen=True)
class Examples:
    """Inputs `x` of shape (n, *shape), normalised, and labels `y` of shape (n,), int64, on the same device."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise UserError(f"Examples need as many inputs as labels, got {len(self.x)} and {len(self.y)}.")

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Tensor | slice) -> Examples:
        return Examples(self.x[index], self.y[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Examples:
        """The same examples on another device; `dtype` converts the inputs only."""
        return Examples(self.x.to(device=device, dtype=dtype), self.y.to(device=device))


@dataclass(frozen=True)
class Data:
    """A data set, split for a game.

    `train` comes from the training file; `test`, `trusted` (the provider's) and `auxiliary` (the attacker's) are
    disjoint parts of the test file. One example has shape `shape`: (channels, height, width) for images,
    (features,) for tables.
    Images are shown as `x * std + mean`, in [0, 1]; `mean` and `std` broadcast against `shape`.
    """

    name: str
    train: Examples
    test: Examples
    trusted: Examples
    auxiliary: Examples
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.train.x.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether one example is (channels, height, width)."""
        return len(self.shape) == 3

    @property
    def filter_trusted(self) -> Examples:
        """The half of `trusted` that request filters may use; disjoint from `conformal_trusted`."""
        return self.trusted[: len(self.trusted) // 2]

    @property
    def conformal_trusted(self) -> Examples:
        """The half of `trusted` that calibrates conformal sets."""
        return self.trusted[len(self.trusted) // 2 :]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Data:
        """The same data on another device; `dtype` converts the inputs only."""
        parts = {part: getattr(self, part).to(device, dtype) for part in ("train", "test", "trusted", "auxiliary")}
        scale = {part: getattr(self, part).to(device=device, dtype=dtype) for part in ("mean", "std")}
        return replace(self, **parts, **scale)


def bounds(x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value of any input x (n, *shape), by channel (or feature), (1, channels, 1, ...)."""
    others = [0, *range(2, x.dim())]
    return x.amin(others, keepdim=True), x.amax(others, keepdim=True)
