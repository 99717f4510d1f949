"""Gaussian noise that a certified procedure adds: secret, from the system's entropy, or derived from the seed."""

from __future__ import annotations

import secrets
from typing import Literal

import torch
from torch import Tensor

from data.randomness import generator

Noise = Literal["secret", "derived"]


def gaussian_noise(noise: Noise, sigma: float, rows: int, size: int, seed: int, *names: str | int) -> Tensor:
    """Draws of N(0, sigma^2 I), shape (rows, size), in float64 on the CPU.

    Secret rows are independent of each other and of everything else. Derived ones come from the `seed` and the `names`,
    and all rows are the same draw, so that candidates differ by their requests alone.
    """
    if noise == "secret":
        rng = torch.Generator().manual_seed(secrets.randbits(63))
        return sigma * torch.randn(rows, size, generator=rng, dtype=torch.float64)
    row = torch.randn(size, generator=generator(seed, *names), dtype=torch.float64)
    return (sigma * row).expand(rows, size)


def hides_nothing(noise: Noise, sigma: float) -> str | None:
    """Why noise of this kind certifies nothing, in one sentence; None where it may."""
    if noise == "derived":
        return "The noise is derived from the seed (noise=derived), so anyone can subtract it."
    if sigma == 0:
        return "Without noise (sigma=0) nothing is hidden."
    return None
