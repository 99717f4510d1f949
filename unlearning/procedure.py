"""The nouns and the role of unlearning: `Task`, `Request`, `Procedure`, and the public verb `forget`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.untouched import untouched
from models.training import Build, Diverged, Training, train
from models.victim import ModelStack, Victim, frozen_names

LARGE = 100.0  # a parameter beyond which several layers may overflow, so that it is worth asking for logits


@dataclass(frozen=True, eq=False)
class Task:
    """What a provider holds: the training records, the architecture and the training recipe.

    `gone` (n,) marks records deleted earlier (1 = deleted). n stays the size of the original training set, so a
    deletion does not rescale the regulariser: F(theta; w) = (1/n) sum_i (1 - w_i) l_i + (lambda/2) ||theta||^2.
    """

    records: Examples
    build: Build
    training: Training
    gone: Tensor | None = None

    def total(self, deleted: Tensor) -> Tensor:
        """Deletion weights (m, n) that count earlier deletions too."""
        return deleted if self.gone is None else torch.maximum(deleted, self.gone.to(deleted))

    def without(self, request: Request) -> Task:
        """The task after `request` was carried out."""
        return replace(self, gone=self.total(as_weights([request], self.records))[0])


@dataclass(frozen=True)
class Request:
    """What an owner asks to be forgotten: distinct positions in the training set, in the order of importance.

    `examples` are the submitted copies, row by row, where they differ from the provider's records; only procedures
    with `uses_copy` compute with them.
    """

    indices: tuple[int, ...]
    examples: Examples | None = None

    def __len__(self) -> int:
        return len(self.indices)


@runtime_checkable
class Procedure(Protocol):
    """A way to learn and forget. `deleted` (m, n) holds m candidate requests as weights, 1 = deleted.

    `differentiable`: `request_vjp` exists, so that a white-box attack can ask for dL/dw. `uses_copy`: the server
    computes with the submitted copy; otherwise it deletes its own record and perturbing the copy changes nothing.
    `stochastic`: the result depends on the seed. `exact`: what `forget` gives is what learning without the deleted
    records gives. `irreproducible`: noise comes from the system's entropy, so that no two runs agree and no model or
    request of one may be kept for another (the numbers of a finished game may). One may say in `remedy` which of its
    settings (of `{0}`) to change where an unlearned model is not finite.
    """

    @property
    def differentiable(self) -> bool: ...
    @property
    def uses_copy(self) -> bool: ...
    @property
    def stochastic(self) -> bool: ...
    @property
    def exact(self) -> bool: ...
    @property
    def irreproducible(self) -> bool: ...
    def learn(self, task: Task, seed: int) -> Victim:
        """A model trained on all records that are not gone."""
        ...

    def forget(
        self, task: Task, victim: Victim, deleted: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """The m models after each row of `deleted` was forgotten from `victim`; `submitted` replaces the records."""
        ...


@runtime_checkable
class Architect(Protocol):
    """A procedure whose victims are not plain models of the task's architecture."""

    def architecture(self, task: Task) -> Build:
        """What builds the module of this procedure's victims."""
        ...


@runtime_checkable
class Recording(Protocol):
    """A procedure that records much while learning, which its victims then carry in their history."""

    def recorded(self, task: Task, size: int) -> int:
        """How many numbers that will be, for a model of `size` parameters."""
        ...


class Differentiable(Procedure, Protocol):
    """A procedure whose result can be differentiated in the request."""

    def request_vjp(self, task: Task, victim: Victim, models: ModelStack, deleted: Tensor, cotangent: Tensor) -> Tensor:
        """dL/dw (m, n) from q = dL/dtheta' (m, p) at the unlearned `models`."""
        ...


def unlearned(
    procedure: Procedure, task: Task, victim: Victim, deleted: Tensor, seed: int, submitted: Examples | None = None
) -> ModelStack:
    """What `procedure.forget` gives, for whoever goes on to use it: its models are finite, and so are their logits.

    Raises UserError with the procedure and, from its `remedy` where it has one, the setting to change.
    """
    lent = {"task.records.x": task.records.x, "task.records.y": task.records.y, "deleted": deleted}
    lent |= {f"victim.moving[{name!r}]": value for name, value in victim.moving.items()}
    try:
        with untouched(f"unlearning={type(procedure).__name__}", lent):
            models = procedure.forget(task, victim, deleted, seed, submitted)
    except Diverged as error:
        raise UserError(_not_finite(procedure)) from error
    if not isinstance(models, ModelStack) or len(models) != len(deleted):
        gave = f"{len(models)} models" if isinstance(models, ModelStack) else f"a {type(models).__name__}"
        raise UserError(
            f"unlearning={type(procedure).__name__}: forget() must give a ModelStack with one model for each of the "
            f"{len(deleted)} rows of `deleted`, and gave {gave}; victim.copies(len(deleted)) is one."
        )
    sizes = [float(value.abs().amax()) for value in models.moving.values() if value.numel()]
    finite = all(map(math.isfinite, sizes)) and _finite_buffers(models, victim)
    if not finite or (max(sizes) > LARGE and not models.logits(task.records.x).isfinite().all()):
        raise UserError(_not_finite(procedure))
    return models


def _finite_buffers(models: ModelStack, victim: Victim) -> bool:
    """Whether the buffers are finite that are in the victim; an attention mask, say, may be infinite on purpose."""
    changing = models.buffers.keys() - frozen_names(models.module)
    return all(
        bool(models.buffers[name].isfinite().all()) or not bool(victim.buffers[name].isfinite().all())
        for name in changing
    )


def _not_finite(procedure: Procedure) -> str:
    name = type(procedure).__module__.rpartition(".")[2]
    remedy = getattr(procedure, "remedy", "make its steps smaller (settings of the group unlearning)")
    return f"unlearning={name} gave a model that is not finite; {remedy.format(procedure)}."


def architecture(procedure: Procedure, task: Task) -> Build:
    """What builds the module of a procedure's victims."""
    return procedure.architecture(task) if isinstance(procedure, Architect) else task.build


def learned(procedure: Procedure, task: Task, seed: int) -> Victim:
    """What `procedure.learn` gives; raises UserError where that is no Victim."""
    victim: object = procedure.learn(task, seed)
    if not isinstance(victim, Victim):
        raise UserError(
            f"unlearning={type(procedure).__name__}: learn() must give a Victim, as unlearning.procedure."
            f"plain_learning(task, seed) does, and gave a {type(victim).__name__}."
        )
    return victim


def plain_learning(task: Task, seed: int) -> Victim:
    """Train on the task's records: the `learn` of every procedure that records nothing while learning."""
    weights = None if task.gone is None else task.gone[None]
    return train(task.build, task.records, task.training, [seed], weights, label="training the victim")[0]


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


def forget(procedure: Procedure, task: Task, victim: Victim, request: Request, seed: int) -> Victim:
    """Carry out one request on `victim`: the public verb, with every check.

    Raises UserError for an empty request, positions outside the training set or already gone, and malformed copies.
    """
    if not request.indices:
        raise UserError("The request is empty; name at least one record.")
    deleted = as_weights([request], task.records)
    if task.gone is not None and bool((deleted[0] * task.gone.to(deleted)).any()):
        raise UserError("The request names a record that was deleted before.")
    return unlearned(procedure, task, victim, deleted, seed, submitted_copies(request, task.records))[0]
