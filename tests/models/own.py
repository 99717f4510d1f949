"""Models that a user might bring: a small network whose forward pass, and what it is made of, tests choose."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.examples import Examples
from data.randomness import generator

SHAPE, CLASSES, HIDDEN = (1, 4, 4), 3, 8
Forward = Callable[[Any, Tensor], Any]
Prepare = Callable[[Any], object]


class Own(nn.Module):
    """`a` (16 to 8), tanh, then what `between` does, then `b` (8 to 3)."""

    def __init__(self, between: Forward, prepare: Prepare | None = None, whole: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, HIDDEN), nn.Linear(HIDDEN, CLASSES)
        self.between, self.whole = between, whole
        if prepare is not None:
            prepare(self)

    def hidden(self, x: Tensor) -> Tensor:
        """Features (n, 8)."""
        return torch.tanh(self.a(x.flatten(1)))

    def forward(self, x: Tensor) -> Any:
        """Logits, or whatever `between` makes of the input where it is the `whole`."""
        return self.between(self, x) if self.whole else self.b(self.between(self, self.hidden(x)))


def has(**parts: Callable[[], Any]) -> Prepare:
    """Sets attributes, made anew for each model."""

    def prepare(module: Any) -> None:
        for name, make in parts.items():
            setattr(module, name, make())

    return prepare


def records(n: int = 40, dtype: torch.dtype = torch.float32) -> Examples:
    rng = generator(0, "own models")
    return Examples(torch.randn(n, *SHAPE, generator=rng).to(dtype), torch.randint(CLASSES, (n,), generator=rng))


def numpy_draw() -> float:
    """From numpy's global generator."""
    return float(np.random.normal())  # noqa: NPY002


def states() -> list[Any]:
    """Where the global generators of torch, Python and numpy stand."""
    numpy: Any = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist(), numpy[2]]


def seed_all(seed: int) -> None:
    """Seed all of them."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
