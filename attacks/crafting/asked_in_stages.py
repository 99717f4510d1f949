"""Stages as a black-box attacker plays them: what to ask for next is searched by trials on the service as it is now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.black_box import BlackBoxObjective, ScoreSearch, search_scores
from attacks.crafting.objective import MisclassificationObjective
from attacks.crafting.policies import BeforeLast
from unlearning.procedure import Request
from unlearning.service import Service


def stage_queries(queries: int, stages: int) -> int:
    """How many trials a stage has, of a budget that carries out every stage with one query too."""
    return queries // stages - 1


def asked_in_stages(
    service: Service, goal: AttackGoal, attacker: Attacker, objective: MisclassificationObjective, early: float,
    sizes: Sequence[int], others: Tensor, search: ScoreSearch, rng: torch.Generator,
) -> AttackResult:  # fmt: skip
    """Search every stage's request on the service as it is then, carry out the best, and go on from there.

    `others` (T, benign) are positions in the training set that stand for what others ask for, and are carried out with
    the stage's request. Trials are rolled back by the service; a stage for which none of them helps asks for nothing.
    """
    tries = stage_queries(service.queries_left(), len(sizes))
    first = BlackBoxObjective(service, goal, attacker, objective)
    gone = torch.zeros_like(attacker.pool, dtype=torch.bool)
    order: list[int] = []
    named: list[int] = []
    curve = [first.value]
    for stage, (size, theirs) in enumerate(zip(sizes, others, strict=True)):
        left = Attacker(attacker.pool[~gone], attacker.owned[~gone], attacker.reference)
        last = stage == len(sizes) - 1
        wanted = objective if last or early == 0 else BeforeLast(objective, early, aims=True)
        now = BlackBoxObjective(service, goal, left, wanted)
        now.reference_loss = first.reference_loss  # what stealth is measured against is the loss at first
        now.now = now.predictions([service])
        now.value = float(wanted.rank(now.now))
        most = min(size, len(left.pool))
        mine = search_scores(now, search, most, rng, tries).request.indices if most else ()
        order += mine
        named.append(len(mine))
        gone_too = theirs[torch.isin(theirs, left.pool)].tolist()
        together = tuple(dict.fromkeys([*mine, *gone_too]))
        if together:
            service = service.forget(Request(together))
            gone |= torch.isin(attacker.pool, torch.tensor(together, device=gone.device))
        curve.append(float(objective.rank(first.predictions([service]))))
    return AttackResult(Request(tuple(order)), curve[-1], tuple(curve), stages=tuple(named))
