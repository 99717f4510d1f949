"""What a provider shows to the outside. The threat model is in the type: a black box has nothing to open.

`Predictor` answers, `Service` answers and forgets, `OpenService` is the provider itself, opened. What stands behind the
first two is in private slots. Python's privacy is a convention: an attack that keeps to public names cannot reach it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import UserError
from models.passes import models_at_once
from models.victim import ModelStack, Victim
from unlearning.procedure import Procedure, Request, Task, as_weights, forget, unlearned

Feedback = Literal["score", "sequential", "labels"]
Record = Literal["own", "submitted"]  # what is unlearned: the stored record of that number, or the copy that was sent


class BudgetSpent(UserError):
    """The query budget is used up; nothing was computed for the refused query."""


@dataclass
class Meter:
    """Counts what an attack has used. One forgotten request with the predictions on its result is one query."""

    queries: int = 0
    predictions: int = 0  # inputs shown to a predictor or a service outside a query
    operator_calls: int = 0  # runs of the unlearning procedure, one for each request and model


@dataclass(frozen=True)
class OpenService:
    """White-box access: the provider, opened. Several victims (with their seeds) stand for an ensemble.

    With `record` own the provider deletes the records that it has stored under the positions of a request, and copies
    that come with it count for nothing; with submitted it computes with the copies, where its procedure does.
    """

    task: Task
    procedure: Procedure
    victims: tuple[Victim, ...]
    seeds: tuple[int, ...]
    meter: Meter = field(default_factory=Meter)
    record: Record = "submitted"

    def unlearn(self, deleted: Tensor) -> list[ModelStack]:
        """The models after every row of weights `deleted` (m, n), one `ModelStack` of m models per victim."""
        self.meter.operator_calls += len(deleted) * len(self.victims)
        return self._unlearned(deleted)

    def forget(self, request: Request) -> OpenService:
        """The provider after `request`, with the copies that it brings, was carried out; this one stays as it is."""
        return self.forget_each([request])[0]

    def forget_each(self, requests: Sequence[Request]) -> list[OpenService]:
        """The provider after each request alone, evaluated together where none brings copies of its own.

        Raises UserError for a request that is empty, malformed, or names what is gone already; it costs nothing.
        """
        changed = list(self.carried_out(requests))
        self.meter.operator_calls += len(requests) * len(self.victims)
        pairs = zip(requests, changed, strict=True)
        return [replace(self, task=self.task.without(request), victims=victims) for request, victims in pairs]

    def carried_out(self, requests: Sequence[Request]) -> Iterator[tuple[Victim, ...]]:
        """The victims after each request alone, one after the other; as `forget_each`, but nothing is counted.

        They are made in batches, of which one is held at a time.
        """
        requests = [as_carried_out(request, self.record) for request in requests]
        if any(request.examples is not None or not request.indices for request in requests):
            yield from map(self._forgotten, requests)
            return
        deleted = as_weights(requests, self.task.records)
        if self.task.forgotten is not None and bool((deleted * self.task.forgotten.to(deleted)).any()):
            raise UserError("The request names a record that was deleted before.")
        for rows in deleted.split(models_at_once(self.victims[0])):
            yield from self._each(rows)

    def _each(self, deleted: Tensor) -> Iterator[tuple[Victim, ...]]:
        stacks = self._unlearned(deleted)
        yield from (tuple(stack[row] for stack in stacks) for row in range(len(deleted)))

    def _forgotten(self, request: Request) -> tuple[Victim, ...]:
        pairs = zip(self.victims, self.seeds, strict=True)
        return tuple(forget(self.procedure, self.task, victim, request, seed) for victim, seed in pairs)

    def _unlearned(self, deleted: Tensor) -> list[ModelStack]:
        pairs = zip(self.victims, self.seeds, strict=True)
        return [unlearned(self.procedure, self.task, victim, deleted, seed) for victim, seed in pairs]


def as_carried_out(request: Request, record: Record) -> Request:
    """The request as a provider with that policy reads it: without its copies where it deletes its own records."""
    return replace(request, examples=None) if record == "own" else request


class Predictor:
    """The predictions of a deployed model, counted. There is nothing else on it."""

    __slots__ = ("_labels_only", "_meter", "_victims")

    def __init__(self, victims: Sequence[Victim], meter: Meter | None = None, labels_only: bool = False) -> None:
        """`victims` that answer together; `meter` counts the inputs, where they are to be counted.

        With `labels_only` nothing but the label is answered.
        """
        self._victims, self._meter, self._labels_only = tuple(victims), meter, labels_only

    def predict(self, x: Tensor) -> Tensor:
        """Probabilities (n, classes) of inputs `x` (n, *shape); several victims answer with their mean.

        With labels only 1 for the label and 0 elsewhere, in the same form.
        """
        if self._meter is not None:
            self._meter.predictions += len(x)
        found = torch.stack([victim.probabilities(x) for victim in self._victims]).mean(0)
        return F.one_hot(found.argmax(-1), found.shape[-1]).to(found) if self._labels_only else found


@dataclass
class _Account:
    """The query budget that a service shares with every service that comes of it."""

    budget: int
    spent: int = 0

    def check(self, asked: int) -> None:
        if self.spent + asked > self.budget:
            raise BudgetSpent(
                f"The query budget of {self.budget} is used up ({self.spent} spent, {asked} asked); "
                "an attack says in its `queries` how many it makes."
            )


class Service(Predictor):
    """Black-box access: predictions, deletion requests, and how many requests are left. There is nothing else on it.

    With feedback `score` each request is tried on the same model and rolled back; with `labels` likewise, and every
    answer, before a request and after, is a label instead of probabilities. With `sequential` a request is
    carried out for good: this service can no longer be asked, and the one it returned goes on. `serve` makes one.
    """

    __slots__ = ("_account", "_feedback", "_provider", "_retired")

    def __init__(self, provider: OpenService, account: _Account, feedback: Feedback, meter: Meter | None) -> None:
        super().__init__(provider.victims, meter, feedback == "labels")
        self._provider, self._account, self._feedback, self._retired = provider, account, feedback, False

    def queries_left(self) -> int:
        """How many more requests the budget allows."""
        return self._account.budget - self._account.spent

    def forget(self, request: Request) -> Service:
        """The service after one request, which may bring copies of its records: one query.

        Raises BudgetSpent beyond the budget, and UserError for a request that `unlearning.procedure.forget` refuses.
        """
        if not isinstance(request, Request):
            raise UserError(
                f"forget() takes one Request, and was given a {type(request).__name__}; forget_each() takes many."
            )
        return self.forget_each([request])[0]

    def forget_each(self, requests: Sequence[Request]) -> list[Service]:
        """The service after each request alone, evaluated together: one query each; with `sequential` only one."""
        if self._retired:
            raise UserError("This service has carried out a request for good; use the service that request returned.")
        if self._feedback == "sequential" and len(requests) != 1:
            raise UserError("With sequential feedback a service takes one request at a time.")
        self._account.check(len(requests))
        changed = self._provider.forget_each(requests)
        self._count(len(requests))
        self._retired = self._feedback == "sequential"
        return [Service(provider, self._account, self._feedback, meter=None) for provider in changed]

    def answers(self, requests: Sequence[Request], x: Tensor) -> Tensor:
        """What the service after each request alone predicts for `x` (n, *shape): (m, n, classes); one query each.

        The same as `forget_each` and `predict`, without a service for each to hold on to, so that any number may be
        asked for. Raises UserError with `sequential`, where a request is carried out for good.
        """
        if self._feedback == "sequential":
            raise UserError("With sequential feedback nothing is tried; forget() carries a request out for good.")
        self._account.check(len(requests))
        labels_only, found = self._feedback == "labels", list[Tensor]()
        for victims in self._provider.carried_out(requests):
            found.append(Predictor(victims, labels_only=labels_only).predict(x))
        self._provider.meter.operator_calls += len(requests) * len(self._provider.victims)
        self._count(len(requests))
        return torch.stack(found)

    def _count(self, asked: int) -> None:
        self._account.spent += asked
        self._provider.meter.queries += asked


def serve(provider: OpenService, queries: int, feedback: Feedback = "score") -> Service:
    """Close a provider into a `Service` that takes at most `queries` requests; its meter goes on counting.

    Raises UserError for a budget that is not positive.
    """
    if queries < 1:
        raise UserError(f"A query budget must be at least 1, got {queries}.")
    return Service(provider, _Account(queries), feedback, provider.meter)
