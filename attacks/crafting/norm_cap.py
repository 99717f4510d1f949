"""The adaptive attacker against gradient-influence filters: name only records with a small gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.crafting.attack import Attacker
from data.errors import UserError
from models.gradients import gradient_norms
from unlearning.service import OpenService


def below_norm_quantile(service: OpenService, attacker: Attacker, cap: float | None, budget: int) -> Tensor:
    """Which records (n,) may be named: the pool, without those whose ||g_i|| exceeds the `cap` quantile of the records.

    The norms are those of the first victim. Raises UserError when fewer than `budget` records remain. Our
    adaptive attack on filters that score by gradients; a cap of 0.7 is what the tables play.
    """
    allowed = torch.zeros(len(service.task.records), dtype=torch.bool, device=service.task.records.x.device)
    allowed[attacker.pool] = True
    if cap is not None:
        norms = gradient_norms(service.victims[0], service.task.records)
        allowed &= norms <= norms.double().quantile(cap).to(norms)
        if int(allowed.sum()) < budget:
            raise UserError(
                f"attack.norm_cap={cap} leaves {int(allowed.sum())} records, fewer than "
                f"attack.budget={budget}; raise the cap."
            )
    return allowed
