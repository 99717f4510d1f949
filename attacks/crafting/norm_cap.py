"""The adaptive attacker against gradient-influence filters: name only records with a small gradient."""

from __future__ import annotations

from dataclasses import replace

from attacks.crafting.attack import Attacker
from data.errors import UserError
from models.gradients import gradient_norms
from unlearning.service import OpenService


def below_norm_quantile(service: OpenService, attacker: Attacker, cap: float, budget: int) -> Attacker:
    """The attacker without the records of its pool whose ||g_i|| exceeds the `cap` quantile over all training records.

    The norms are those of the first victim. Raises UserError when fewer than `budget` records remain. Our adaptive
    attack on filters that score by gradients; a cap of 0.7 is what the tables play.
    """
    norms = gradient_norms(service.victims[0], service.task.records)
    small = (norms <= norms.double().quantile(cap).to(norms))[attacker.pool]
    left = int(small.sum())
    if left < budget:
        raise UserError(
            f"attack.norm_cap={cap} leaves {left} records, fewer than attack.budget={budget}; raise the cap."
        )
    return replace(attacker, pool=attacker.pool[small], owned=attacker.owned[small])
