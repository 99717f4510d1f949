"""Residual networks for images of 32 x 32 pixels: 3 x 3 stem, no pooling before the first block."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.normalisation import normalisation
from models.shapes import image, positive_integer


class ResNet9(nn.Module):
    """Eight convolutions, two pairs of them residual, and a linear head (D. Page, "How to train your ResNet", 2018).

    Channels: `width`, 2, 4 and 8 times `width`; three 2 x 2 max-poolings and a global one: at least 8 x 8 pixels.
    `norm` is batch, group or none: functional transforms (vmap, jvp) need batch-norm in eval mode; group-norm has no
    running state. Raises `UserError` for examples that are no images or too small, a width below 1 and an unknown norm.
    """

    def __init__(self, *, shape: Sequence[int], classes: int, width: int = 64, norm: str = "batch") -> None:
        super().__init__()
        channels, _, _ = image(shape, classes, "ResNet9", smallest=8)
        positive_integer("width", width)
        self.stem = _convolution(channels, width, norm)
        self.layer1 = nn.Sequential(_convolution(width, 2 * width, norm), nn.MaxPool2d(2), _Residual(2 * width, norm))
        self.layer2 = nn.Sequential(_convolution(2 * width, 4 * width, norm), nn.MaxPool2d(2))
        self.layer3 = nn.Sequential(
            _convolution(4 * width, 8 * width, norm), nn.MaxPool2d(2), _Residual(8 * width, norm)
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width)."""
        maps = self.layer3(self.layer2(self.layer1(self.stem(x))))
        logits: Tensor = self.head(maps.amax(dim=(2, 3)))
        return logits


class ResNet18(nn.Module):
    """Four stages of two basic blocks (He, Zhang, Ren, Sun, arXiv:1512.03385), in the variant for small images.

    Stage k has `width` * 2^k channels, k = 0 to 3, and each but the first halves the resolution; global average pooling
    and a linear head follow. `norm` is batch, group or none: functional transforms (vmap, jvp) need batch-norm in eval
    mode; group-norm has no running state.
    Raises `UserError` for examples that are no images or too small, a width below 1 and an unknown norm.
    """

    def __init__(self, *, shape: Sequence[int], classes: int, width: int = 64, norm: str = "batch") -> None:
        super().__init__()
        channels, _, _ = image(shape, classes, "ResNet18", smallest=8)
        positive_integer("width", width)
        self.stem = _convolution(channels, width, norm)
        stages: list[nn.Module] = []
        before = width
        for stage in range(4):
            after = width * 2**stage
            stages += [_Basic(before, after, norm, stride=1 if stage == 0 else 2), _Basic(after, after, norm, stride=1)]
            before = after
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width)."""
        logits: Tensor = self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))
        return logits


def _convolution(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    """3 x 3 convolution, normalisation, ReLU, at the same resolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none"), normalisation(norm, outputs), nn.ReLU()
    )


class _Residual(nn.Module):
    """x + f(x) with two convolutions in f."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.inner = nn.Sequential(_convolution(channels, channels, norm), _convolution(channels, channels, norm))

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = x + self.inner(x)
        return total


class _Basic(nn.Module):
    """relu(shortcut(x) + f(x)), two convolutions in f; the shortcut is a 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, norm: str, *, stride: int) -> None:
        super().__init__()
        bias = norm == "none"  # normalisation has a bias of its own
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
        self.norm1 = normalisation(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.norm2 = normalisation(norm, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=bias)
            self.shortcut = nn.Sequential(projection, normalisation(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + inner)
