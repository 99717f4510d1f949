"""Pruning masks: which parameters of a model stay at zero, as tensors of 0 and 1 by the parameters' names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Mask = Mapping[str, Tensor]  # 1 where a parameter is left, 0 where it is pruned; a name without a mask is dense


def pruned(tensors: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
    """The tensors with zeros where they are pruned."""
    return {
        name: torch.where(mask[name] != 0, value, value.new_zeros(())) if name in mask else value
        for name, value in tensors.items()
    }


def pruned_vectors(vectors: Tensor, mask: Mask, like: Mapping[str, Tensor]) -> Tensor:
    """Vectors (..., p) in the order of the parameters `like`, with zeros where these are pruned.

    The mask has the parameters' shapes, or a leading dimension for rows of vectors (m, p).
    """
    pieces = vectors.split([value.numel() for value in like.values()], dim=-1)
    shaped = {
        name: piece.reshape(*vectors.shape[:-1], *value.shape)
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }
    return torch.cat([piece.reshape(*vectors.shape[:-1], -1) for piece in pruned(shaped, mask).values()], dim=-1)


def check_mask(mask: Mask, parameters: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless every mask is that of a parameter that moves, and has its shape."""
    for name, value in mask.items():
        if name not in parameters or value.shape != parameters[name].shape:
            expected = tuple(parameters[name].shape) if name in parameters else "no parameter that moves"
            raise ValueError(f"The mask of {name} has the shape {tuple(value.shape)}, and {name} is {expected}.")
