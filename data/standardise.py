"""Standardisation in float64: what a column holds is rounded to float32 last, when its offset and scale are gone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

log = logging.getLogger(__name__)
CHUNK = 2**22  # numbers that are float64 at once
NAMED = 8  # columns in a sentence
COMMON = 0.9  # share of a column's values that must not fall together


def statistics(x: Tensor, over: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of the population) over these dimensions, 0 among them: float64, like one example.

    The deviation is 1 where all values are equal, whatever rounding says. No square overflows or vanishes.
    """
    dims = list(over)
    low, high = x.amin(dims, keepdim=True).double(), x.amax(dims, keepdim=True).double()
    reach = torch.where(high > low, high - low, 1.0)
    middle = low + (high - low) / 2
    count = x.numel() // low.numel()
    shifts = ((part - middle).sum(dims, keepdim=True) for part in _parts(x))
    mean = middle + sum(shifts, torch.zeros_like(low)) / count
    mean = torch.where(high > low, mean, low)
    squares = (((part - mean) / reach).square().sum(dims, keepdim=True) for part in _parts(x))
    std = reach * (sum(squares, torch.zeros_like(low)) / count).sqrt()
    return mean.squeeze(0), torch.where(high > low, std, 1.0).squeeze(0)


def standardised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std (n, ...) for float64 `mean` and `std`, computed in float64 and rounded to float32 at the end."""
    return torch.cat([((part - mean) / std).float() for part in _parts(x)])


def report_constant(name: str, x: Tensor, mean: Tensor, std: Tensor) -> None:
    """Warn of what says nothing in the training part `x` (n, ...): a table's constant columns, and all that becomes so.

    A column (or entry of an example) becomes constant where values that differ are one float32 after standardisation:
    all of them, or of a table the middle 90% of them.
    """
    low, high = x.amin(0), x.amax(0)
    lost = (low < high) & _together(low, high, mean, std)
    if x.dim() == 2:
        _warn(name, low == high, "in the training part: only centred, and of no use")
        ranks = [1 + round(share * (len(x) - 1)) for share in ((1 - COMMON) / 2, (1 + COMMON) / 2)]
        columns = x.split(max(1, CHUNK // len(x)), dim=1)
        lower, upper = (torch.cat([part.kthvalue(rank, dim=0).values for part in columns]) for rank in ranks)
        lost |= (lower < upper) & _together(lower, upper, mean, std)
    what = "for nearly all records once standardised, since other values lie much further away than these differ"
    _warn(name, lost.flatten(), f"{what}; clip or transform them")


def _parts(x: Tensor) -> Iterator[Tensor]:
    return (part.double() for part in x.split(max(1, CHUNK // max(1, x[:1].numel()))))


def _together(low: Tensor, high: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    one, other = standardised(torch.stack([low, high]), mean, std)
    return one == other


def _warn(name: str, columns: Tensor, what: str) -> None:
    found = columns.nonzero()[:, 0].tolist()
    if found:
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        listed = f"column{'s' * (len(found) > 1)} {', '.join(str(each) for each in found[:NAMED])}{more}"
        log.warning("%s: %s %s constant %s.", name, listed, "are" if len(found) > 1 else "is", what)
