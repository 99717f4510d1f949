"""Models as named tensors, the form in which a store keeps them, and back again; and a hash of such tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.victim import ModelStack, Tensors, Victim

PARTS = {"parameter": "moving", "buffer": "buffers", "history": "history", "ledger": "ledger", "mask": "mask"}


def tensors_of(models: Victim | ModelStack) -> Tensors:
    """Every tensor of a victim; of an ensemble all but the history, which it shares with its victim."""
    return {
        f"{kind}/{name}": value
        for kind, part in PARTS.items()
        if kind != "history" or isinstance(models, Victim)
        for name, value in getattr(models, part).items()
    }


def victim_of(tensors: Mapping[str, Tensor], module: nn.Module, device: torch.device) -> Victim:
    """The victim whose tensors these are; `module` gives its structure."""
    return Victim(module, *(_those(tensors, kind, device) for kind in PARTS))


def ensemble_of(tensors: Mapping[str, Tensor], victim: Victim) -> ModelStack:
    """The models whose tensors these are, descended from `victim`."""
    device = victim.flat().device
    parameters, buffers, ledger, mask = (_those(tensors, kind, device) for kind in PARTS if kind != "history")
    return ModelStack(victim.module, parameters, buffers, victim.history, ledger, mask)


def _those(tensors: Mapping[str, Tensor], kind: str, device: torch.device) -> Tensors:
    start = f"{kind}/"
    return {name.removeprefix(start): value.to(device) for name, value in tensors.items() if name.startswith(start)}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of named tensors: names, shapes, types and values, in their order."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
