"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from models.dropout import Dropout
from models.shapes import choice, features, positive, rate

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class MLP(nn.Module):
    """Fully connected layers of `widths` units with an `activation` (tanh or relu), then a linear head.

    tanh is smooth, so that Hessians and influence are defined everywhere. `dropout` is the rate after each activation;
    see `models.dropout` for its masks. Without widths this is logistic regression.
    Raises `UserError` for widths that are no list of integers of at least 1, an unknown activation, or a rate outside
    [0, 1).
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        classes: int,
        widths: Sequence[int] = (32,),
        activation: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        choice("activation", activation, list(ACTIVATIONS))
        rate("dropout", dropout)
        sizes = (features(shape, classes), *positive("widths", widths))
        hidden: list[nn.Module] = []
        for inputs, units in pairwise(sizes):
            hidden += [nn.Linear(inputs, units), ACTIVATIONS[activation]()]
            if dropout > 0:
                hidden.append(Dropout(rate=dropout, width=units))
        self.hidden = nn.Sequential(*hidden)
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of inputs (n, *shape)."""
        logits: Tensor = self.head(self.hidden(x.flatten(1)))
        return logits
