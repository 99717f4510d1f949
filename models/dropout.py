"""Dropout with masks that are passed in, so that no layer draws from the global generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models import shapes


class Dropout(nn.Module):
    """Multiplies `width` features by the buffer `mask`, which is one, so that by itself it is the identity.

    Whoever trains, or samples thinned networks, draws masks with `sample_masks` and passes them as buffers of a
    functional call; `train()` and `eval()` change nothing. Source: Srivastava et al., JMLR 15, 2014 (in the inverted
    form: kept features are divided by 1 - rate, so that the mean of a mask is one).
    Raises `UserError` unless 0 <= rate < 1.
    """

    mask: Tensor

    def __init__(self, *, rate: float, width: int) -> None:
        super().__init__()
        self.rate = shapes.rate("dropout", rate)
        self.width = width
        self.register_buffer("mask", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, width) times the mask, of shape (1,), (width,) or (n, width)."""
        return x * self.mask


def dropout_layers(module: nn.Module) -> dict[str, Dropout]:
    """The dropout layers of a module by their names, in the order of its layers."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Dropout)}


def sample_masks(
    module: nn.Module, generator: torch.Generator, leading: tuple[int, ...], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """One draw of masks, by the names of their buffers, each of shape (*leading, width).

    Entries are 0 with probability `rate` and 1 / (1 - rate) else. `leading` is (batch,) for a mask per example, or
    (samples,) for one thinned network per sample, to be mapped over. Draws are made on the generator's device and the
    masks have the device of the buffers, and their type unless it is given. The result is empty if the module has no
    dropout.
    """
    masks: dict[str, Tensor] = {}
    for name, layer in dropout_layers(module).items():
        kept = torch.rand(*leading, layer.width, generator=generator, device=generator.device) >= layer.rate
        scale = kept.to(layer.mask.device, dtype or layer.mask.dtype) / (1 - layer.rate)
        masks[f"{name}.mask" if name else "mask"] = scale
    return masks
