"""Fused kernels of torch written out in operations that can be mapped over and differentiated twice."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


def _name(function: Any) -> str:
    return getattr(function, "__name__", "")


class FusedCalls(TorchFunctionMode):
    """Sees whether a function is called inside that `WrittenOut` replaces."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look, and pass on."""
        name = _name(func)
        self.seen = self.seen or name in REPLACED or "attention" in name or "transformer_encoder_layer" in name
        return func(*args, **(kwargs or {}))


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / ||v||, with the norm over all dimensions but `dim` (Salimans and Kingma, NeurIPS 2016)."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """In eval mode the leaky ReLU with the mean slope; in training mode as it is (Xu et al., arXiv:1505.00853)."""
    if training:
        return torch.rrelu(input, lower, upper, True)
    return F.leaky_relu(input, (lower + upper) / 2)


REPLACED = {"_weight_norm": weight_norm, "rrelu": rrelu, "rrelu_": rrelu}


class _Replaced(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return REPLACED.get(_name(func), func)(*args, **(kwargs or {}))


@dataclass
class WrittenOut:
    """Hooks around a forward pass, inside which attention, weight-norm and randomised ReLU are written out."""

    _open: list[ExitStack] = field(default_factory=list)

    def begin(self, module: object, inputs: object) -> None:
        """Before the pass."""
        stack = ExitStack()
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(_Replaced())
        self._open.append(stack)

    def end(self, module: object, inputs: object, output: object) -> None:
        """After it, also where it failed."""
        self._open.pop().close()
