"""A small convolutional network, for grey images from 8 x 8 pixels up to colour images of 32 x 32."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from data.errors import UserError
from models.normalisation import normalisation
from models.shapes import image, positive


class SmallCNN(nn.Module):
    """One block (3 x 3 convolution, normalisation, ReLU, 2 x 2 max-pooling) for each of `widths`, then a linear head.

    The images must be at least 2^blocks pixels wide and high. `norm` is group, batch or none: functional transforms
    (vmap, jvp) need batch-norm in eval mode; group-norm has no running state.
    Raises `UserError` for examples that are no images or too small, no widths or one below 1, and an unknown norm.
    """

    def __init__(
        self, *, shape: Sequence[int], classes: int, widths: Sequence[int] = (16, 32), norm: str = "group"
    ) -> None:
        super().__init__()
        widths = positive("widths", widths)
        if not widths:
            raise UserError("model.widths is empty; give at least one number of channels, such as [16, 32].")
        channels, height, width = image(shape, classes, "SmallCNN", smallest=2 ** len(widths))
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *widths), widths, strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none"),  # normalisation has a bias of its own
                normalisation(norm, outputs),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.blocks = nn.Sequential(*layers)
        shrink = 2 ** len(widths)
        self.head = nn.Linear(widths[-1] * (height // shrink) * (width // shrink), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width)."""
        logits: Tensor = self.head(self.blocks(x).flatten(1))
        return logits
