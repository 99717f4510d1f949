"""Records and their copies searched together, and the shortest request that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackResult
from attacks.crafting.copies import Copies, perturbed
from attacks.crafting.objective import CandidatePredictions, Objective
from attacks.crafting.selection import most_useful
from attacks.crafting.white_box import WhiteBoxObjective
from data.examples import Examples
from models.progress import progress
from unlearning.procedure import Request, as_weights, submitted_copies

Reached = Callable[[CandidatePredictions], Tensor]


def joint(
    white_box: WhiteBoxObjective, objective: Objective, attacker: Attacker, results: Sequence[AttackResult],
    copies: Copies, rounds: int,
) -> list[AttackResult]:  # fmt: skip
    """Copies for the requests, then `rounds` - 1 times other records and copies for these; the best by rank is kept.

    Other records are those with the smallest slopes dL/dw_i where the last round ended, at the copies of the records
    that have one: which records serve best depends on the copies, and the copies on the records.
    """
    best = last = perturbed(white_box, objective, attacker, results, copies)
    for _ in range(rounds - 1):
        last = perturbed(white_box, objective, attacker, _reselected(white_box, objective, attacker, last), copies)
        best = [new if new.objective < old.objective else old for new, old in zip(last, best, strict=True)]
    return best


def _reselected(
    white_box: WhiteBoxObjective, objective: Objective, attacker: Attacker, results: Sequence[AttackResult]
) -> list[AttackResult]:
    """As many records as every request has, with its copies of those that stay."""
    records = white_box.service.task.records
    allowed, found = attacker.may_name(len(records)), []
    for goal, result in enumerate(results):
        request, count = result.request, len(result.request)
        deleted, sent = as_weights([request], records), submitted_copies(request, records)
        if count == 0 or sent is None:
            found.append(result)
            continue
        owner = torch.tensor([goal], device=white_box.x.device)
        models = white_box.models_after(request)
        cotangents = white_box.pulled(models, owner, objective)[1]
        slopes = white_box.request_slopes(models, deleted, cotangents, sent)
        chosen = most_useful(slopes, allowed, count)[0]
        again = Request(tuple(chosen.tolist()), Examples(sent.x[chosen], sent.y[chosen]))
        found.append(AttackResult(again, float("inf"), result.curve))
    return found


def predicted_after(white_box: WhiteBoxObjective, goal: int, request: Request) -> CandidatePredictions:
    """What the true procedure makes of one request, with its copies, for a goal."""
    owner = torch.tensor([goal], device=white_box.x.device)
    if not request.indices:
        return white_box.after(white_box.x.new_zeros(1, len(white_box.service.task.records)), owner)
    return white_box.predicted(white_box.models_after(request), owner)


def shortest(
    white_box: WhiteBoxObjective, objective: Objective, results: Sequence[AttackResult], reached: Reached
) -> list[AttackResult]:
    """The shortest prefix of every request that still reaches its goal, by bisection with the true procedure.

    A request that does not reach its goal stays as it is. Bisection supposes that a longer prefix reaches what a
    shorter one does; what it gives does reach the goal, and need not be the shortest where that fails.
    """
    found = []
    with progress("shortening requests", len(results)) as tick:
        for goal, result in enumerate(results):
            found.append(_shortened(white_box, objective, goal, result, reached))
            tick()
    return found


def _shortened(
    white_box: WhiteBoxObjective, objective: Objective, goal: int, result: AttackResult, reached: Reached
) -> AttackResult:
    if not bool(reached(predicted_after(white_box, goal, result.request))[0]):
        return result
    least, most, best = 0, len(result.request), result
    while most - least > 1:
        middle = (least + most) // 2
        request = prefix(result.request, middle)
        predictions = predicted_after(white_box, goal, request)
        if bool(reached(predictions)[0]):
            most, best = middle, replace(result, request=request, objective=float(objective.rank(predictions)[0]))
        else:
            least = middle
    return best


def prefix(request: Request, length: int) -> Request:
    """The first `length` records of a request, with their copies."""
    copies = None if request.examples is None else request.examples[slice(0, length)]
    return Request(request.indices[:length], copies)
