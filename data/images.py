"""From byte images to a data set: exact statistics, normalisation, and the splits that image sets share."""

from __future__ import annotations

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Data, Examples
from data.randomness import generator
from data.splits import carve_stratified, fewer, stratified

ROWS = 4096  # images whose pixels are looked up at once


def byte_statistics(pixels: Tensor, *, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of byte images, where 255 counts as 1.

    `pixels` is uint8 of shape (n, channels, height, width); both results are float64 of shape (channels, 1, 1) or
    (1, 1, 1). They are computed from the counts of the 256 values, so no order of summing matters.
    """
    groups = [pixels[:, channel] for channel in range(pixels.shape[1])] if per_channel else [pixels]
    counts = torch.stack([torch.bincount(group.reshape(-1), minlength=256) for group in groups]).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(dim=1, keepdim=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(dim=1)
    return mean.reshape(-1, 1, 1), variance.sqrt().reshape(-1, 1, 1)


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Byte images as float32: (pixels / 255 - mean) / std in float64, of each of the 256 values, and rounded then."""
    table = ((torch.arange(256, dtype=torch.float64) / 255 - mean.flatten(1)) / std.flatten(1)).float()
    ready = torch.empty(pixels.shape, dtype=torch.float32)
    for some, into in zip(pixels.split(ROWS), ready.split(ROWS), strict=True):
        for channel in range(pixels.shape[1]):
            into[:, channel] = table[min(channel, len(table) - 1)][some[:, channel].int()]
    return ready


def image_data(
    name: str,
    classes: tuple[str, ...],
    train: Examples,
    test: Examples,
    statistics: tuple[Tensor, Tensor],
    *,
    subset: int | None,
    trusted: int,
    auxiliary: int,
    split_seed: int,
    keep_test: int | None = None,
) -> Data:
    """The data set made of byte images `train` and `test` (uint8 inputs of shape (n, channels, height, width)).

    `subset` training examples are kept (all of them for None), stratified; the test file is divided into `trusted`,
    `auxiliary` and, with `keep_test` of what is left (all of it for None), `test`, also stratified. `statistics` are
    (mean, std).
    Raises `UserError` if the sizes do not fit.
    """
    if trusted + auxiliary >= len(test):
        raise UserError(
            f"data.trusted={trusted} + data.auxiliary={auxiliary} leaves nothing to test on: the test file has "
            f"{len(test)} examples; make them smaller."
        )
    sizes = {"trusted": trusted, "auxiliary": auxiliary}
    parts = carve_stratified(test.y, sizes, generator(split_seed, f"{name} split"))
    parts["rest"] = fewer(test.y, parts["rest"], keep_test, generator(split_seed, f"{name} test"))
    if subset is not None:
        train = train[stratified(train.y, subset, generator(split_seed, f"{name} subset"))]

    def ready(examples: Examples) -> Examples:
        return Examples(normalised(examples.x, *statistics), examples.y)

    return Data(
        name=name,
        train=ready(train),
        test=ready(test[parts["rest"]]),
        trusted=ready(test[parts["trusted"]]),
        auxiliary=ready(test[parts["auxiliary"]]),
        classes=classes,
        mean=statistics[0].float(),
        std=statistics[1].float(),
    )
