"""Black-box attack with sequential feedback: every query is a real deletion, and nothing can be rolled back."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attacks.crafting.attack import AttackResult
from attacks.crafting.black_box import BlackBoxObjective
from attacks.crafting.objective import CandidatePredictions
from attacks.crafting.responses import responses, similarities
from unlearning.procedure import Request

LEAST = 0.1  # of the prior: curvature is positive, so only noise or drift can make a learned scale negative
CHUNK = 4096  # candidates whose forecasts are held at once


def closed_loop(black_box: BlackBoxObjective, budget: int, per_query: int, ridge: float) -> AttackResult:
    """Delete `per_query` records a query until `budget` are gone or the budget of queries is; keep what was deleted.

    At every stage the records' `responses` are computed anew from the current service, and the objective is forecast at
    the targets' logits plus scale x response. The scale is learned by ridge regression from the logits that the earlier
    deletions really moved (`ridge` is the weight of its prior 1/c in records). The best group that is forecast to
    improve the objective and to keep the labels is deleted; without one the loop stops, for a lost label cannot be
    bought back. A greedy closed loop of our own making.
    """
    service, size = black_box.service, len(black_box.attacker.pool)
    owned, answers = black_box.attacker.owned, service.predict(black_box.attacker.owned.x)
    similar = similarities(owned.x, black_box.goal.x, answers)
    pushes, now = responses(similar, answers, owned.y), black_box.predictions([service])
    moments = ridge * pushes.square().sum((1, 2)).mean().clamp_min(1e-12)
    products = moments / size
    gone = torch.zeros(size, dtype=torch.bool, device=pushes.device)
    order: list[int] = []
    while len(order) < budget and service.queries_left() > 0:
        scale = (products / moments).clamp_min(LEAST / size)
        group = best_group(black_box, now, scale * pushes, gone, min(per_query, budget - len(order)))
        if len(group) == 0:
            break
        order += black_box.attacker.pool[group.to(black_box.attacker.pool.device)].tolist()
        service = service.forget(Request(tuple(order[-len(group) :])))
        gone[group] = True
        black_box.record(Request(tuple(order)), service)
        after, push = black_box.predictions([service]), pushes[group].sum(0)
        moved = after.log_p[0, 0] - now.log_p[0, 0]
        push, moved = push - push.mean(-1, keepdim=True), moved - moved.mean(-1, keepdim=True)
        moments, products = moments + push.square().sum(), products + (push * moved).sum()
        now, pushes = after, responses(similar, service.predict(owned.x), owned.y)
    return AttackResult(Request(tuple(order)), float(black_box.objective.rank(now)), tuple(black_box.curve))


def best_group(
    black_box: BlackBoxObjective, now: CandidatePredictions, changes: Tensor, gone: Tensor, most: int
) -> Tensor:
    """Positions in the pool (at most `most`) forecast to lower the objective most and keep it feasible; may be empty.

    `changes` (c, T, K) are the forecast changes of the targets' logits. Records are ranked one by one, and then the
    prefixes of that ranking are compared, changes added up.
    """
    ranked = forecast(black_box, now, changes).masked_fill(gone, torch.inf)
    order = ranked.argsort(stable=True)[:most]
    order = order[torch.isfinite(ranked[order])]
    if len(order) == 0:
        return order
    together = forecast(black_box, now, changes[order].cumsum(0))
    best = int(together.argmin())
    return order[: best + 1] if together[best] < black_box.objective.loss(now)[0] else order[:0]


def forecast(black_box: BlackBoxObjective, now: CandidatePredictions, changes: Tensor) -> Tensor:
    """The objective (m,) at the current logits plus each of `changes` (m, T, K); infinite where it is not feasible."""
    values = []
    for part in changes.split(CHUNK):
        count = len(part)
        moved = replace(
            now,
            log_p=(now.log_p + part[:, None]).log_softmax(-1),
            labels=now.labels.expand(count, -1),
            direction=now.direction.expand(count),
            reference=now.reference.expand(count, -1, -1, -1),
        )
        values.append(black_box.objective.loss(moved).masked_fill(~black_box.objective.feasible(moved), torch.inf))
    return torch.cat(values)
