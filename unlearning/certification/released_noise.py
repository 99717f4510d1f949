"""Gaussian noise that a certified procedure adds: secret, from the system's entropy, or derived from the seed."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor

from data.randomness import generator

Noise = Literal["secret", "derived"]


def gaussian_noise(noise: Noise, sigma: float, rows: int, size: int, seed: int, *names: str | int) -> Tensor:
    """Draws of N(0, sigma^2 I), shape (rows, size), in float64 on the CPU.

    Secret rows are independent of each other and of everything else: every number has 53 bits of the system's entropy.
    Derived ones come from the `seed` and the `names`, and all rows are the same draw, so that candidates differ by
    their requests alone.
    """
    if noise == "secret":
        return sigma * torch.special.ndtri(_secret_uniform(rows * size)).reshape(rows, size)
    row = torch.randn(size, generator=generator(seed, *names), dtype=torch.float64)
    return (sigma * row).expand(rows, size)


def _secret_uniform(count: int) -> Tensor:
    """Numbers in (0, 1), from the system's generator: torch's own keeps 32 bits of a seed, which can be tried out."""
    if count == 0:
        return torch.empty(0, dtype=torch.float64)
    drawn = torch.frombuffer(bytearray(os.urandom(8 * count)), dtype=torch.int64)
    return ((drawn & (2**53 - 1)).double() + 0.5) / 2**53


def hides_nothing(noise: Noise, sigma: float) -> str | None:
    """Why noise of this kind certifies nothing, in one sentence; None where it may."""
    if noise == "derived":
        return "The noise is derived from the seed (noise=derived), so anyone can subtract it."
    if sigma == 0:
        return "Without noise (sigma=0) nothing is hidden."
    return None
