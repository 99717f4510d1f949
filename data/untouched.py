"""Tensors that are lent are given back as they were: own parts that write into them are named instead of believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from data.errors import UserError


@contextmanager
def untouched(who: str, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """What runs inside may read the `tensors`, by their names, and write into none of them.

    PyTorch counts the in-place writes into a tensor and its views; the counts before and after are compared. Raises
    UserError that names the first tensor written into: whatever is computed from it afterwards would be about something
    else.
    """
    before = {name: tensor._version for name, tensor in tensors.items()}
    yield
    for name, tensor in tensors.items():
        if tensor._version != before[name]:
            raise UserError(
                f"{who} writes into {name}, which others read after it; work on a copy (clone()), or write x = x - y "
                "in place of x.sub_(y)."
            )
