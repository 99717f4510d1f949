"""Descending by minibatches: all steps of training, of one model or of many at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, reseed
from models.batches import lr_factor
from models.learner import Batch, Feed, Learner
from models.progress import Tick

if TYPE_CHECKING:
    from models.training import Training

Watch = Callable[[Batch, Sequence[Tensor]], None]  # told of every step: its batch, and the parameters after it


class Diverged(UserError):
    """The loss or a parameter stopped being finite."""


@dataclass(frozen=True, eq=False)
class Course(Generic[Feed]):
    """What is descended on: for every epoch its batches, of these records.

    `tick` hears of every epoch, `watch` of every step. Where `draws` is a seed, the global generators are seeded from
    it before every step.
    """

    records: Examples
    epochs: Iterable[Iterable[Feed]]
    tick: Tick
    watch: Callable[[Feed, Sequence[Tensor]], None] | None = None
    draws: int | None = None


def descend(learner: Learner[Feed], course: Course[Feed], training: Training) -> None:
    """All steps of training, which change the learner's parameters in place; raises `Diverged`."""
    values = list(learner.parameters.values())
    pruned = [(value, learner.mask[name] == 0) for name, value in learner.parameters.items() if name in learner.mask]
    update = stepper(training, values)
    total = training.epochs * math.ceil(len(course.records) / training.batch_size)
    step = 0
    for epoch, batches in enumerate(course.epochs):
        for batch in batches:
            for value in values:
                value.grad = None
            if course.draws is not None:
                reseed(derive(course.draws, "draws of the model", step))
            loss = learner.loss(batch)
            loss.backward()
            for value in values:
                if value.grad is None:  # not used in this step: its gradient is zero
                    value.grad = torch.zeros_like(value)
            update(training.lr * lr_factor(training.schedule, step, total))
            with torch.no_grad():
                for value, zero in pruned:
                    value.masked_fill_(zero, 0)
                if course.watch is not None:
                    course.watch(batch, values)
            step += 1
        if not all(bool(torch.isfinite(value).all()) for value in (loss, *values)):
            raise Diverged(
                f"Training diverged: the loss is not finite after epoch {epoch + 1}; "
                f"lower training.lr (now {training.lr:g})."
            )
        course.tick()


def stepper(training: Training, values: list[Tensor]) -> Callable[[float], None]:
    """One update of `values` from their gradients, as a function of the learning rate.

    SGD is v <- momentum v + g + lambda theta; theta <- theta - lr v, as in torch.optim, whose bookkeeping would take a
    fifth of a step of a small model.
    """
    if training.optimizer == "adam":
        optimizer = torch.optim.Adam(values, weight_decay=training.weight_decay, foreach=True)

        def adam(lr: float) -> None:
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()

        return adam
    velocity = [torch.zeros_like(value) for value in values]

    @torch.no_grad()
    def sgd(lr: float) -> None:
        gradients = [value.grad for value in values if value.grad is not None]  # all of them, by then
        torch._foreach_mul_(velocity, training.momentum)
        torch._foreach_add_(velocity, gradients)
        torch._foreach_add_(velocity, values, alpha=training.weight_decay)
        torch._foreach_add_(values, velocity, alpha=-lr)

    return sgd
