"""Checkpoints inside a game: every slow run of the unlearning procedure is kept until what it was for is finished.

Attacks and judgement spend their time in `forget`, and both are deterministic. A game that was killed or preempted
therefore repeats its few own operations, is given the models of the runs it had finished, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from data.examples import Examples
from models.named_tensors import digest, ensemble_of, tensors_of
from models.training import Build
from models.victim import ModelStack, Victim
from unlearning.procedure import Differentiable, Procedure, StateDifferentiable, TakesCopies, Task, unlearned

if TYPE_CHECKING:
    from storage.store import Store

KIND = "step"
SLOW = 1.0  # seconds; repeating what took less is cheaper than keeping it


@dataclass(frozen=True, eq=False)
class Checkpointed(Procedure):
    """The `procedure`, remembering its slow runs in the `store`; it behaves and answers like the procedure itself.

    `key` is what determines the procedure and its victims, beside what `forget` is given: `keys.of("unlearning")`.
    `clear` removes what was remembered.
    """

    procedure: Procedure
    store: Store
    key: Mapping[str, Any]
    slow: float = SLOW
    _kept: set[Path] = field(default_factory=set, repr=False)

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """As the procedure says."""
        return self.procedure.differentiable

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """As the procedure says."""
        return self.procedure.stochastic

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """As the procedure says."""
        return self.procedure.exact

    @property
    def irreproducible(self) -> bool:  # type: ignore[override]
        """As the procedure says."""
        return self.procedure.irreproducible

    def architecture(self, task: Task) -> Build:
        """As the procedure says."""
        return self.procedure.architecture(task)

    def recorded(self, task: Task, size: int) -> int:
        """As the procedure says."""
        return self.procedure.recorded(task, size)

    def damped(self, task: Task, damping: float) -> Procedure | None:
        """As the procedure says: the models are the same, and so are those that are kept."""
        other = self.procedure.damped(task, damping)
        return None if other is None else replace(self, procedure=other)

    def learn(self, task: Task, seed: int) -> Victim:
        """As the procedure does; trained victims are kept by `games.victims.learn`."""
        return self.procedure.learn(task, seed)

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """The models after each row of `forget_weights`, from an earlier run where it is kept."""

        def make() -> ModelStack:
            return unlearned(self.procedure, task, victim, forget_weights, seed, submitted)

        if not self.keeps:
            return make()
        return self.kept({"seed": seed, "asked": _digest(task, victim, forget_weights, submitted)}, victim, make)

    @property
    def keeps(self) -> bool:
        """Whether a run can be kept: a store is there, and another run would give the same."""
        return self.store.enabled and not self.irreproducible

    def kept(self, of: Mapping[str, Any], like: Victim, make: Callable[[], ModelStack]) -> ModelStack:
        """What `make` gives, models like the victim `like`, from an earlier run where it is kept; `of` names it."""
        key = {**self.key, **of}
        found = self.store.find_tensors(KIND, key)
        if found is not None:
            path, tensors = found
            self._kept.add(path)
            return ensemble_of(tensors, like)
        began = perf_counter()
        models = make()
        if perf_counter() - began >= self.slow:
            where = self.store.keep_tensors(KIND, key, tensors_of(models))
            if where is not None:
                self._kept.add(where)
        return models

    def request_vjp(
        self,
        task: Task,
        victim: Victim,
        models: ModelStack,
        forget_weights: Tensor,
        cotangent: Tensor,
        submitted: Examples | None = None,
    ) -> Tensor:
        """As the procedure does, where it is differentiable."""
        procedure: Differentiable = self.procedure  # type: ignore[assignment]
        return procedure.request_vjp(task, victim, models, forget_weights, cotangent, submitted)

    def copies_vjp(self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor, at: Examples) -> Tensor:
        """As the procedure does, where it can be differentiated in what is submitted."""
        procedure: TakesCopies = self.procedure  # type: ignore[assignment]
        return procedure.copies_vjp(task, victim, forget_weights, cotangent, at)

    def victim_vjp(self, task: Task, victim: Victim, forget_weights: Tensor, cotangent: Tensor) -> Tensor:
        """As the procedure does, where it can be differentiated in the model that it starts from."""
        procedure: StateDifferentiable = self.procedure  # type: ignore[assignment]
        return procedure.victim_vjp(task, victim, forget_weights, cotangent)

    def clear(self) -> None:
        """Remove the runs that were kept or used so far: what they were for is finished."""
        for path in self._kept:
            self.store.discard(path)
        self._kept.clear()


def _digest(task: Task, victim: Victim, forget_weights: Tensor, submitted: Examples | None) -> str:
    """A hash of everything that `forget` is given beside the training records, which the key of a victim names."""
    return digest(dict(_asked(task, victim, forget_weights, submitted)))


def _asked(
    task: Task, victim: Victim, forget_weights: Tensor, submitted: Examples | None
) -> Iterator[tuple[str, Tensor]]:
    yield "deleted", forget_weights
    if task.forgotten is not None:
        yield "gone", task.forgotten
    if submitted is not None:
        used = forget_weights.any(dim=0)  # copies of records that are not deleted play no part
        yield "submitted x", submitted.x[used]
        yield "submitted y", submitted.y[used]
    # the key of the victim names its history too, which may take gigabytes
    yield from ((name, tensor) for name, tensor in tensors_of(victim).items() if not name.startswith("history/"))
