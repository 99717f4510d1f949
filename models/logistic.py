"""Multinomial logistic regression: the model with a convex loss, for which certified removal is proven."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.shapes import features


class Logistic(nn.Module):
    """Logits W vec(x) + b for examples of `shape`; (features + 1) * classes parameters.

    Raises `UserError` for an empty shape or fewer than 2 classes.
    """

    def __init__(self, *, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features(shape, classes), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of inputs (n, *shape)."""
        logits: Tensor = self.linear(x.flatten(1))
        return logits
