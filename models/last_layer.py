"""Only the last layer moves: the same models with all other parameters as constants."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from models.victim import Ensemble, Tensors, Victim

Models = TypeVar("Models", Victim, Ensemble)


def last_layer(parameters: Tensors) -> list[str]:
    """Names of the parameters of the layer that was defined last: those that share its prefix, as head.weight does."""
    prefix = list(parameters)[-1].rpartition(".")[0]
    return [name for name in parameters if name.rpartition(".")[0] == prefix]


def only_last_layer(models: Models) -> Models:
    """The same models, whose parameters are those of the last layer; the others are buffers, so nothing moves them."""
    moving = last_layer(models.moving)
    parameters = {name: models.moving[name] for name in moving}
    fixed = {name: value for name, value in models.moving.items() if name not in parameters}
    return type(models)(models.module, parameters, {**models.buffers, **fixed}, models.history, models.ledger)


def to_last_layer(vectors: Tensor, parameters: Tensors) -> Tensor:
    """The entries of `vectors` (m, p) that belong to the last layer; `parameters` are those of one model."""
    return torch.cat([part for name, part in _parts(vectors, parameters) if name in last_layer(parameters)], dim=1)


def from_last_layer(vectors: Tensor, parameters: Tensors) -> Tensor:
    """The inverse: `vectors` of the last layer's length in their places, zeros (m, p) elsewhere."""
    sizes = [parameters[name].numel() for name in last_layer(parameters)]
    given = iter(vectors.split(sizes, dim=1))
    full = vectors.new_zeros(len(vectors), sum(value.numel() for value in parameters.values()))
    return torch.cat(
        [next(given) if name in last_layer(parameters) else part for name, part in _parts(full, parameters)], dim=1
    )


def _parts(vectors: Tensor, parameters: Tensors) -> list[tuple[str, Tensor]]:
    pieces = vectors.split([value.numel() for value in parameters.values()], dim=1)
    return list(zip(parameters, pieces, strict=True))
