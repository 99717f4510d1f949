"""The role of unlearning: `Procedure`, what may be said of what it gives, and the public verb `forget`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.untouched import untouched
from models.descent import Diverged
from models.training import Build
from models.victim import ModelStack, Victim, frozen_names
from unlearning.learning import plain_learning, plain_learning_many
from unlearning.task import Request, Task, as_weights, submitted_copies

__all__ = [
    "Differentiable",
    "Procedure",
    "Request",
    "StateDifferentiable",
    "TakesCopies",
    "Task",
    "as_weights",
    "forget",
    "learned",
    "plain_learning",
    "submitted_copies",
    "unlearned",
]
LARGE = 100.0  # a parameter beyond which several layers may overflow, so that it is worth asking for logits


class Procedure(ABC):
    """A way to learn and to forget. A new one writes `forget`, and says what differs from what stands here.

    `differentiable`: `request_vjp` exists (see `Differentiable`), so that a white-box attack can ask for dL/dw.
    `stochastic`: the result of `forget` depends on the seed. `exact`: what `forget` gives is what learning without the
    deleted records gives. `irreproducible`: noise comes from the system's entropy, so that no two runs agree and no
    model or request of one may be kept for another (the numbers of a finished game may). `remedy`: which of its
    settings (of `{0}`) to change where an unlearned model is not finite. All of these may be properties.

    `learns_with`: the names of the settings that the class's own `learn` and `architecture` read, so that a victim is
    trained once for all values of the others; none for plain learning. None, which is what a class that writes one of
    the two has unless it says otherwise, means all settings. See `unlearning.identity.learner_of`.
    """

    differentiable: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    irreproducible: ClassVar[bool] = False
    remedy: ClassVar[str] = "make its steps smaller (settings of the group unlearning)"
    learns_with: ClassVar[tuple[str, ...] | None] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if vars(cls).keys() & {"learn", "architecture"} and "learns_with" not in vars(cls):
            cls.learns_with = None

    def learn(self, task: Task, seed: int) -> Victim:
        """A model trained on all records that are not forgotten."""
        return plain_learning(task, seed)

    def learn_many(self, task: Task, seeds: Sequence[int]) -> list[Victim]:
        """The victims that `learn` gives for each of the seeds, bit by bit."""
        if type(self).learn is Procedure.learn:
            return plain_learning_many(task, seeds)
        return [self.learn(task, seed) for seed in seeds]

    @abstractmethod
    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """The m models after each row of `forget_weights` (m, n) was forgotten from `victim`.

        A row is a candidate request as weights, 1 = deleted. `submitted` are the records with submitted copies in
        their place; a procedure that deletes its own records ignores it.
        """

    def forget_many(
        self, task: Task, victims: Sequence[Victim], forget_weights: Tensor, seeds: Sequence[int]
    ) -> list[Victim]:
        """Victim i after row i of `forget_weights` (N, n), with seed i: what `forget` gives for each, bit by bit."""
        cases = zip(victims, forget_weights[:, None], seeds, strict=True)
        return [self.forget(task, victim, row, seed)[0] for victim, row, seed in cases]

    def architecture(self, task: Task) -> Build:
        """What builds the module of this procedure's victims."""
        return task.build

    def damped(self, task: Task, damping: float) -> Procedure | None:
        """The same with slopes through a curvature with that damping, where slopes are approximate; else None."""
        return None

    def recorded(self, task: Task, size: int) -> int:
        """How many numbers the history of a victim of `size` parameters takes."""
        return 0


@runtime_checkable
class Differentiable(Protocol):
    """A procedure whose result can be differentiated in the request."""

    def request_vjp(
        self,
        task: Task,
        victim: Victim,
        models: ModelStack,
        forget_weights: Tensor,
        cotangent: Tensor,
        submitted: Examples | None = None,
    ) -> Tensor:
        """dL/dw (m, n) from q = dL/dtheta' (m, p) at the unlearned `models`.

        `forget_weights` and `submitted` are those that `forget` made the models with.
        """
        ...


@runtime_checkable
class TakesCopies(Protocol):
    """A procedure that computes with submitted copies, and whose result can be differentiated in them."""

    def copies_vjp(self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor, at: Examples) -> Tensor:
        """dL/dx~ (n, *shape) from q = dL/dtheta' (p,), for one request (n,) whose copies stand in `at`."""
        ...


@runtime_checkable
class StateDifferentiable(Protocol):
    """A procedure whose result can be differentiated in the model that it starts from, so that requests can be chained.

    What it gives depends on earlier requests through that model alone.
    """

    def victim_vjp(self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor) -> Tensor:
        """dL/dtheta (m, p) from q = dL/dtheta' (m, p), at deletion weights (m, n) of stored records."""
        ...


def unlearned(
    procedure: Procedure,
    task: Task,
    victim: Victim,
    forget_weights: Tensor,
    seed: int,
    submitted: Examples | None = None,
) -> ModelStack:
    """What `procedure.forget` gives, for whoever goes on to use it: its models are finite, and so are their logits.

    Raises UserError with the procedure and, from its `remedy`, the setting to change.
    """
    name, count = type(procedure).__name__, len(forget_weights)
    lent = {"task.records.x": task.records.x, "task.records.y": task.records.y, "forget_weights": forget_weights}
    lent |= {f"victim.moving[{name!r}]": value for name, value in victim.moving.items()}
    try:
        with untouched(f"unlearning={name}", lent):
            models = procedure.forget(task, victim, forget_weights, seed, submitted)
    except Diverged as error:
        raise UserError(_not_finite(procedure)) from error
    if not isinstance(models, ModelStack) or len(models) != count:
        gave = f"{len(models)} models" if isinstance(models, ModelStack) else f"a {type(models).__name__}"
        raise UserError(
            f"unlearning={name}: forget() must give a ModelStack with one model for each of the {count} rows of "
            f"`forget_weights`, and gave {gave}; victim.copies(len(forget_weights)) is one."
        )
    if victim.mask.keys() - models.mask.keys():
        raise UserError(
            f"unlearning={name}: forget() lost the victim's pruning mask; victim.moved(steps), victim.copies(m) and "
            "dataclasses.replace keep it."
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
    remedy = getattr(procedure, "remedy", Procedure.remedy)
    return f"unlearning={name} gave a model that is not finite; {remedy.format(procedure)}."


def learned(procedure: Procedure, task: Task, seed: int) -> Victim:
    """What `procedure.learn` gives; raises UserError where that is no Victim."""
    victim: object = procedure.learn(task, seed)
    if not isinstance(victim, Victim):
        raise UserError(
            f"unlearning={type(procedure).__name__}: learn() must give a Victim, as unlearning.learning."
            f"plain_learning(task, seed) does, and gave a {type(victim).__name__}."
        )
    return victim


def forget(procedure: Procedure, task: Task, victim: Victim, request: Request, seed: int) -> Victim:
    """Carry out one request on `victim`: the public verb, with every check.

    Raises UserError for an empty request, positions outside the training set or forgotten already, and malformed
    copies.
    """
    if not request.indices:
        raise UserError("The request is empty; name at least one record.")
    weights = as_weights([request], task.records)
    if task.forgotten is not None and bool((weights[0] * task.forgotten.to(weights)).any()):
        raise UserError("The request names a record that was deleted before.")
    return unlearned(procedure, task, victim, weights, seed, submitted_copies(request, task.records))[0]
