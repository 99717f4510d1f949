"""A proof whose states lie on the straight line from a freshly drawn model to the one that was there all along."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.behaviour import behaviour
from models.stepwise import State
from models.victim import Tensors, Victim
from unlearning.provable import drawn
from unlearning.task import Task


@dataclass(frozen=True, eq=False)
class Line:
    """From `start` to `end`, weights (p,) and the buffers that training changes."""

    start: State
    end: State

    def at(self, share: float, step: int) -> State:
        """(1 - share) start + share end: exactly `start` at 0, and `end` at 1; without moments.

        Buffers of whole numbers, which batch-norm counts its batches with, are `step` more than those of the start.
        """
        buffers = {
            name: torch.lerp(value, self.end.buffers[name], share) if value.is_floating_point()
            else (value + step).to(value.dtype)
            for name, value in self.start.buffers.items()
        }  # fmt: skip
        return State(torch.lerp(self.start.weights, self.end.weights, share), buffers, {})


def line(task: Task, original: Victim, seed: int) -> Line:
    """From the model that honest retraining with `seed` starts from to the original."""
    fresh = drawn(task, seed)
    keeps = behaviour(original.module, task.records.x).keeps

    def state(victim: Victim) -> State:
        buffers = {name: victim.buffers[name] for name in keeps}
        return State(original.pruned(victim.flat()), buffers, {})

    return Line(state(fresh), state(original))


def ended(original: Victim, buffers: Tensors) -> Victim:
    """The original, with the buffers that a line ends with: they differ from its own by a count of batches alone."""
    return replace(original, buffers=original.buffers | buffers) if buffers else original


def evenly(steps: int) -> Tensor:
    """The shares (steps + 1,) of points that are equally far from one another: 0, 1/steps, ..., 1."""
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)
