"""What is unlearned from, and what is asked to be forgotten: `Task` and `Request`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.training import Build, Training


@dataclass(frozen=True, eq=False)
class Task:
    """What a provider holds: the training records, the architecture and the training recipe.

    `forgotten` (n,) marks records deleted earlier (1 = deleted). n stays the size of the original training set, so a
    deletion does not rescale the regulariser: F(theta; w) = (1/n) sum_i (1 - w_i) l_i + (lambda/2) ||theta||^2.
    """

    records: Examples
    build: Build
    training: Training
    forgotten: Tensor | None = None

    def total(self, forget_weights: Tensor) -> Tensor:
        """Deletion weights (m, n) that count earlier deletions too."""
        if self.forgotten is None:
            return forget_weights
        return torch.maximum(forget_weights, self.forgotten.to(forget_weights))

    def without(self, request: Request) -> Task:
        """The task after `request` was carried out."""
        return replace(self, forgotten=self.total(as_weights([request], self.records))[0])


@dataclass(frozen=True)
class Request:
    """What an owner asks to be forgotten: distinct positions in the training set, in the order of importance.

    `examples` are the submitted copies, row by row, where they differ from the provider's records. Which procedures
    compute with them, and which delete their own records whatever was submitted, their docstrings say.
    """

    indices: tuple[int, ...]
    examples: Examples | None = None

    def __len__(self) -> int:
        return len(self.indices)


def as_weights(requests: Sequence[Request], records: Examples) -> Tensor:
    """Requests as rows of 0/1 deletion weights (m, n); raises UserError for positions that are not in the records."""
    n = len(records)
    weights = torch.zeros(len(requests), n, dtype=records.x.dtype, device=records.x.device)
    for row, request in zip(weights, requests, strict=True):
        wrong = [i for i in request.indices if not 0 <= i < n]
        if wrong:
            raise UserError(f"A request names record {wrong[0]}, but the training set has records 0 to {n - 1}.")
        if len(set(request.indices)) != len(request.indices):
            raise UserError("A request names a record twice; name every record at most once.")
        row[list(request.indices)] = 1
    return weights


def submitted_copies(request: Request, records: Examples) -> Examples | None:
    """The records with the request's copies in their place, or None where the request brings none."""
    if request.examples is None:
        return None
    if len(request.examples) != len(request) or request.examples.x.shape[1:] != records.x.shape[1:]:
        raise UserError(
            f"A request of {len(request)} records needs as many copies of shape {tuple(records.x.shape[1:])}."
        )
    if not torch.isfinite(request.examples.x).all():
        raise UserError("A submitted copy holds values that are not finite.")
    if bool(((request.examples.y < 0) | (request.examples.y > int(records.y.max()))).any()):
        raise UserError(f"A submitted copy has a label outside 0 to {int(records.y.max())}.")
    x, y = records.x.clone(), records.y.clone()
    x[list(request.indices)], y[list(request.indices)] = request.examples.x.to(x), request.examples.y.to(y)
    return Examples(x, y)
