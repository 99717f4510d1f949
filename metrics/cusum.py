"""Cumulative sums of standardised effects: what is split over many small requests adds up."""

from __future__ import annotations

import torch
from torch import Tensor


def cusum(standardised: Tensor, drift: float = 0.5) -> Tensor:
    """The two-sided CUSUM path (b, ...) of `standardised` (b, ...), whose first dimension is time.

    S+_b = max(0, S+_{b-1} + z_b - drift), S-_b = max(0, S-_{b-1} - z_b - drift), from 0; the path is the larger of the
    two. With z of mean 0 and standard deviation 1 under random requests, `drift` (in these) is half of the shift that
    is found fastest. One path serves the requests of one account, or those of all. Raises ValueError for a negative
    drift.
    Source: Page, Biometrika 41, 1954.
    """
    if not drift >= 0:
        raise ValueError(f"The drift of a CUSUM is at least 0, not {drift}.")
    return torch.maximum(_reflected(standardised - drift), _reflected(-standardised - drift))


def _reflected(steps: Tensor) -> Tensor:
    """S_b = max(0, S_{b-1} + steps_b): the walk above its running minimum, or above 0 where that is higher."""
    walk = steps.cumsum(0)
    return walk - walk.cummin(0).values.clamp_max(0)


def first_alarm(path: Tensor, threshold: float) -> int | None:
    """The first time, from 0, at which any entry of the path (b, ...) exceeds `threshold`; None where none does."""
    over = (path.flatten(1) if path.dim() > 1 else path[:, None]) > threshold
    found = over.any(dim=1).nonzero()
    return int(found[0, 0]) if len(found) else None
