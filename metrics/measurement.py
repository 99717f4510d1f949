"""What a metric returns, and the checks of the arguments that metrics share."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measurement:
    """One number with all that is needed to read it.

    `value`: the number; its unit, scale and direction stand in `settings`. `n`: the examples that it was computed from.
    `floor`: the value that means "nothing to see" (chance), or None where the arguments do not determine it.
    """

    value: float
    n: int
    settings: Mapping[str, object] = field(default_factory=dict)
    floor: float | None = None

    def as_dict(self) -> dict[str, object]:
        """The fields as a plain dictionary, for a results file."""
        return {"value": self.value, "n": self.n, "settings": dict(self.settings), "floor": self.floor}


def checked_probabilities(probabilities: Tensor) -> Tensor:
    """Probabilities (n, K), n >= 1, as float64 on the CPU.

    Raises ValueError unless every row is a distribution: finite, not negative, with sum 1 within 1e-3.
    """
    if probabilities.ndim != 2 or probabilities.shape[0] == 0 or probabilities.shape[1] == 0:
        raise ValueError(f"Probabilities have the shape (n, K) with n, K >= 1, not {tuple(probabilities.shape)}.")
    p = probabilities.detach().to("cpu", torch.float64)
    if not torch.isfinite(p).all() or (p < 0).any() or ((p.sum(1) - 1).abs() > 1e-3).any():
        raise ValueError("Every row of probabilities must be finite, not negative and sum to 1 (are these logits?).")
    return p


def checked_labels(labels: Tensor, n: int, classes: int) -> Tensor:
    """Integer labels (n,) in 0..classes-1 as int64 on the CPU; raises ValueError otherwise."""
    if labels.shape != (n,) or labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise ValueError(f"Labels are {n} integers, not {labels.dtype} of shape {tuple(labels.shape)}.")
    y = labels.detach().to("cpu", torch.int64)
    if (y < 0).any() or (y >= classes).any():
        raise ValueError(f"Labels lie in 0..{classes - 1}.")
    return y


def checked_values(values: Tensor, name: str) -> Tensor:
    """Numbers (n,), n >= 1, as float64 on the CPU; raises ValueError for another shape or a NaN."""
    if values.ndim != 1 or values.shape[0] == 0:
        raise ValueError(f"{name} have the shape (n,) with n >= 1, not {tuple(values.shape)}.")
    v = values.detach().to("cpu", torch.float64)
    if torch.isnan(v).any():
        raise ValueError(f"{name} contain NaN.")
    return v
