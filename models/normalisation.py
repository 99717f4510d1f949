"""The normalisation layers that the convolutional architectures choose from."""

from __future__ import annotations

import math

from torch import nn

from models.shapes import choice


def normalisation(kind: str, channels: int) -> nn.Module:
    """The layer called `kind` for feature maps with `channels` channels.

    `group` (Wu and He, arXiv:1803.08494) has no running state: up to 8 groups of at least two channels, or one group if
    the number of channels is odd. `batch` (Ioffe and Szegedy, arXiv:1502.03167) mixes the examples of a batch while
    training, so that functional transforms (vmap, jvp) and per-example gradients need it in eval mode. `none` is the
    identity. Raises `UserError` for any other name.
    """
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, channels // 2) if channels % 2 == 0 else 1, channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    choice("norm", kind, ("group", "batch", "none"))
    return nn.Identity()
