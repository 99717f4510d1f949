"""Slopes of one procedure through several curvatures: what each suggests is tried, and the best is gone on with.

Where a model is not at a minimum, the derivative of retraining is an approximation, and its damping a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.crafting.objective import Objective
from attacks.crafting.white_box import Unlearned, WhiteBoxObjective
from unlearning.service import OpenService


@dataclass(frozen=True, eq=False)
class Slopes:
    """dL/dw of the goals, each through the service that `chosen` (m,) names; services differ in their slopes alone."""

    white_box: WhiteBoxObjective
    services: Sequence[OpenService]
    chosen: Tensor

    def __call__(self, weights: Tensor, objective: Objective, unlearned: Unlearned) -> Tensor:
        """dL/dw (m, n) of every goal at its deletion weights (m, n), which `unlearned` makes models of."""
        total = torch.zeros_like(weights)
        for number, service in enumerate(self.services):
            rows = (self.chosen == number).nonzero()[:, 0]
            if len(rows):
                total[rows] = self.white_box.slopes(weights[rows], objective, unlearned, rows, service)
        return total


def services_of(service: OpenService, dampings: Sequence[float]) -> list[OpenService]:
    """The service itself, and as it would be with each of the dampings, where its slopes are approximate."""
    others = [service.procedure.damped(service.task, damping) for damping in dampings]
    return [service, *(replace(service, procedure=other) for other in others if other is not None)]
