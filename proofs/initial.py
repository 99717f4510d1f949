"""Whether first weights are what a layer of torch draws: a Kolmogorov-Smirnov test for each of its tensors.

Source: Jia et al., Proof-of-Learning, IEEE S&P 2021. The correction for the number of tensors is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

UNIFORM = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONSTANT = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)


def uniform_bounds(module: nn.Module) -> dict[str, float]:
    """For the weights and biases of linear and convolutional layers, by name, the b of their U(-b, b).

    Kaiming-uniform with gain sqrt(1/3), which is that of a leaky ReLU of slope sqrt(5): b = sqrt(3) gain / sqrt(fan_in)
    = 1 / sqrt(fan_in); biases have the same b. fan_in is the number of inputs of one unit.
    """
    found: dict[str, float] = {}
    for name, layer in module.named_modules():
        if type(layer) in UNIFORM:
            bound = 1 / math.sqrt(max(1, layer.weight[0].numel()))  # type: ignore[index, operator, arg-type]
            found |= {
                f"{name}.{one}".lstrip("."): bound for one in ("weight", "bias") if getattr(layer, one) is not None
            }
    return found


def constants(module: nn.Module) -> dict[str, float]:
    """The value that every weight (1) and bias (0) of a normalisation layer begins with, by name."""
    return {
        f"{name}.{one}".lstrip("."): value
        for name, layer in module.named_modules()
        if type(layer) in CONSTANT
        for one, value in (("weight", 1.0), ("bias", 0.0))
        if getattr(layer, one) is not None
    }


def uniform_distance(values: Tensor, bound: float) -> float:
    """sup_x |F_n(x) - F(x)| of the values against U(-bound, bound), the Kolmogorov-Smirnov statistic; NaN of NaNs."""
    ordered = values.detach().cpu().double().flatten().sort().values
    n = len(ordered)
    there = ((ordered + bound) / (2 * bound)).clamp(0, 1)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum(steps[1:] - there, there - steps[:-1]).max())


def p_values(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, float]:
    """The exact p-value of every tensor that a layer of `module` draws, by name; of a constant 1, or 0 if it is off."""
    from scipy.stats import kstwo

    found = {}
    for name, bound in uniform_bounds(module).items():
        if name in tensors:
            distance = uniform_distance(tensors[name], bound)
            found[name] = float(kstwo.sf(distance, tensors[name].numel())) if math.isfinite(distance) else 0.0
    for name, value in constants(module).items():
        if name in tensors:
            found[name] = float(bool((tensors[name] == value).all()))
    return found
