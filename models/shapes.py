"""Checks of what an architecture is built for; each raises `UserError` with a sentence that says what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from data.errors import UserError


def features(shape: Sequence[int], classes: int) -> int:
    """The number of entries of one example of `shape`, once `shape` and `classes` make sense."""
    if not shape or min(shape) < 1:
        raise UserError(f"An example must have at least one entry, got shape {tuple(shape)}; check the data set.")
    if classes < 2:
        raise UserError(f"A classifier needs at least 2 classes, got {classes}; check the labels of the data set.")
    return math.prod(shape)


def image(shape: Sequence[int], classes: int, model: str, smallest: int) -> tuple[int, int, int]:
    """`shape` as (channels, height, width), if it is an image of at least `smallest` x `smallest` pixels."""
    features(shape, classes)
    if len(shape) != 3:
        raise UserError(
            f"{model} needs images (channels, height, width), and the examples of this data set have shape "
            f"{tuple(shape)}; choose model=mlp or model=logistic, or a data set of images."
        )
    channels, height, width = shape
    if min(height, width) < smallest:
        raise UserError(
            f"{model} with these settings needs images of at least {smallest} x {smallest} pixels, "
            f"got {height} x {width}; choose a smaller model or a data set of larger images."
        )
    return channels, height, width


def positive(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """`values` as a tuple, if each is an integer of at least 1."""
    if any(not isinstance(value, int) or isinstance(value, bool) or value < 1 for value in values):
        raise UserError(f"model.{name} must hold integers of at least 1, got {list(values)}.")
    return tuple(values)
