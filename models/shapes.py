"""Checks of what an architecture is built for; each raises `UserError` with a sentence that says what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from data.errors import UserError

LARGEST = 2**31 - 1  # units of a layer


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
    """`values` as a tuple, if each is an integer from 1 to `LARGEST`."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise UserError(f"model.{name} must be a list of integers, such as [32] or [64, 32], got {values!r:.80}.")
    return tuple(positive_integer(name, value) for value in values)


def positive_integer(name: str, value: int) -> int:
    """`value`, if it is an integer from 1 to `LARGEST`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"model.{name} must hold integers of at least 1, got {value!r:.80}.")
    if value > LARGEST:
        raise UserError(
            f"model.{name} must hold integers of at most {LARGEST:,}, since one such layer takes gigabytes of memory, "
            f"got {value!r:.40}."
        )
    return value


def rate(name: str, value: float) -> float:
    """`value`, if it is a number of at least 0 and less than 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise UserError(f"model.{name}={value!r:.80} must be a number of at least 0 and less than 1.")
    return value


def choice(name: str, value: str, known: Sequence[str]) -> str:
    """`value`, if it is one of the words `known`."""
    if not isinstance(value, str) or value not in known:
        raise UserError(f"model.{name}={value!s:.80} is unknown; choose {', '.join(known[:-1])} or {known[-1]}.")
    return value
