"""What a provider shows to the outside. The threat model is in the type: a `Service` has nothing to open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from data.errors import UserError
from models.passes import models_at_once
from models.victim import ModelStack, Victim
from unlearning.procedure import Procedure, Request, Task, as_weights, forget, unlearned

Feedback = Literal["score", "sequential"]


class BudgetSpent(UserError):
    """The query budget is used up; nothing was computed for the refused query."""


@dataclass
class Meter:
    """Counts what an attack has used. One `forget` with the predictions on its result is one query."""

    queries: int = 0
    predictions: int = 0  # inputs shown to a service outside a query
    operator_calls: int = 0  # runs of the unlearning procedure, one for each request and model


@dataclass(frozen=True)
class Service:
    """Black-box access: predictions, deletion requests, and how many requests are left. There is nothing else on it.

    `predict(x)` gives probabilities (n, classes). `forget(requests)` gives one service per request; with feedback
    `score` each request is tried on the same model and rolled back, with `sequential` a request is carried out for
    good and this service can no longer be used. `queries_left()` is what remains of the budget; a query beyond it
    raises BudgetSpent.
    """

    predict: Callable[[Tensor], Tensor]
    forget: Callable[[Sequence[Request]], list[Service]]
    queries_left: Callable[[], int]


@dataclass(frozen=True)
class OpenService:
    """White-box access: the service, opened. Several victims (with their seeds) stand for an ensemble."""

    task: Task
    procedure: Procedure
    victims: tuple[Victim, ...]
    seeds: tuple[int, ...]
    meter: Meter = field(default_factory=Meter)

    def unlearn(self, deleted: Tensor) -> list[ModelStack]:
        """The models after every row of `deleted` (m, n), one `ModelStack` of m models per victim."""
        self.meter.operator_calls += len(deleted) * len(self.victims)
        pairs = zip(self.victims, self.seeds, strict=True)
        return [unlearned(self.procedure, self.task, victim, deleted, seed) for victim, seed in pairs]


def serve(
    task: Task, procedure: Procedure, victims: Sequence[Victim], seeds: Sequence[int], meter: Meter, budget: int,
    feedback: Feedback = "score",
) -> Service:  # fmt: skip
    """Close a provider into a `Service` with a budget of `budget` queries; several victims answer with their mean.

    Raises UserError for a budget that is not positive.
    """
    if budget < 1:
        raise UserError(f"A query budget must be at least 1, got {budget}.")
    spent = [0]

    def service(task: Task, victims: Sequence[Victim], counted: bool) -> Service:
        alive = [True]

        def predict(x: Tensor) -> Tensor:
            meter.predictions += len(x) if counted else 0
            return torch.stack([victim.probabilities(x) for victim in victims]).mean(0)

        def forget_all(requests: Sequence[Request]) -> list[Service]:
            if not alive[0]:
                raise UserError(
                    "This service has carried out a request for good; use the service that request returned."
                )
            if feedback == "sequential" and len(requests) != 1:
                raise UserError("With sequential feedback a service takes one request at a time.")
            if spent[0] + len(requests) > budget:
                raise BudgetSpent(
                    f"The query budget of {budget} is used up ({spent[0]} spent, {len(requests)} asked); "
                    "an attack says in its `queries` how many it makes."
                )
            changed = _carry_out(task, procedure, victims, seeds, requests)
            spent[0] += len(requests)
            meter.queries += len(requests)
            meter.operator_calls += len(requests) * len(victims)
            if feedback == "sequential":
                alive[0] = False
                return [service(task.without(requests[0]), changed[0], counted=False)]
            return [
                service(task.without(r), models, counted=False) for r, models in zip(requests, changed, strict=True)
            ]

        return Service(predict, forget_all, lambda: budget - spent[0])

    return service(task, victims, counted=True)


def _carry_out(
    task: Task, procedure: Procedure, victims: Sequence[Victim], seeds: Sequence[int], requests: Sequence[Request]
) -> list[list[Victim]]:
    """The victims after each request, evaluated together where the requests bring no copies of their own."""
    pairs = list(zip(victims, seeds, strict=True))
    if any(request.examples is not None or not request.indices for request in requests):
        return [[forget(procedure, task, victim, request, seed) for victim, seed in pairs] for request in requests]
    deleted = as_weights(requests, task.records)
    if task.forgotten is not None and bool((deleted * task.forgotten.to(deleted)).any()):
        raise UserError("The request names a record that was deleted before.")
    changed: list[list[Victim]] = []
    for rows in deleted.split(models_at_once(victims[0])):
        ensembles = [unlearned(procedure, task, victim, rows, seed) for victim, seed in pairs]
        changed += [[ensemble[row] for ensemble in ensembles] for row in range(len(rows))]
    return changed
