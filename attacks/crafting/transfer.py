"""Transfer: an attacker that sees nothing of the provider trains a surrogate on what it holds, and crafts on that.

Positions are translated here: a surrogate counts the attacker's records first, and a provider counts its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from attacks.crafting.attack import Attacker, AttackResult
from data.errors import UserError
from data.examples import Examples
from unlearning.procedure import Task


def surrogate_task(task: Task, attacker: Attacker) -> Task:
    """What a surrogate learns: the attacker's records, then its reference examples, which the provider does not hold.

    Architecture and recipe are the provider's (a grey box); of its records none but the attacker's own are in it. The
    surrogate's F = (1/n) sum_i l_i + (lambda/2) ||theta||^2 has an n of its own, so that where the attacker holds less
    than the provider a deletion moves it farther. Reference examples are learnt, so that what an objective measures on
    them is the surrogate's loss in training.
    """
    own, known = attacker.owned, attacker.reference
    return replace(task, records=Examples(torch.cat([own.x, known.x]), torch.cat([own.y, known.y])), forgotten=None)


def as_surrogate_counts(attacker: Attacker) -> Attacker:
    """The attacker as its surrogate counts: its records are the first, and reference examples cannot be named."""
    return replace(attacker, pool=torch.arange(len(attacker.pool), device=attacker.pool.device))


def as_provider_counts(results: Sequence[AttackResult], attacker: Attacker) -> list[AttackResult]:
    """Requests crafted on a surrogate, with the positions that the provider knows the records by; copies go along."""
    position = attacker.pool.tolist()
    return [
        replace(each, request=replace(each.request, indices=tuple(position[i] for i in each.request.indices)))
        for each in results
    ]


def check_surrogate(attacker: Attacker, budget: int, classes: Sequence[str]) -> None:
    """Raise UserError where what the attacker holds does not make a surrogate: a class is missing, or all is deleted.

    `classes` are the names of all classes of the data set.
    """
    known = torch.cat([attacker.owned.y, attacker.reference.y]).unique().tolist()
    missing = [name for label, name in enumerate(classes) if label not in known]
    if missing:
        raise UserError(
            f"attack.access=transfer trains a surrogate on the attacker's records and reference examples, and none of "
            f"these {len(attacker.owned) + len(attacker.reference)} is of class {missing[0]}; raise attack.owned or "
            "attack.pool, or hold out more reference examples (data.auxiliary)."
        )
    if budget >= len(attacker.owned) + len(attacker.reference):
        raise UserError(
            f"attack.access=transfer trains a surrogate on {len(attacker.owned) + len(attacker.reference)} examples, "
            f"and attack.budget={budget} may delete all of them; lower attack.budget, or raise attack.owned."
        )
