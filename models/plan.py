"""How a recipe goes over records in whole batches, and following such a plan step by step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.batches import lr_factor
from models.progress import progress
from models.stepwise import Opening, Recorder, Stepwise
from models.training import Training
from models.victim import Victim


@dataclass(frozen=True)
class Plan:
    """How a recipe goes over `n` records: the tail of an epoch that does not fill a batch is dropped, or a batch.

    There are at `most` so many steps. Raises UserError where no batch is filled.
    """

    training: Training
    n: int
    ragged: bool = False
    most: int | None = None

    def __post_init__(self) -> None:
        if self.per_epoch < 1:
            raise UserError(
                f"{self.n} retained records do not fill a batch of {self.training.batch_size}; lower "
                "training.batch_size, or delete fewer."
            )

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch."""
        whole, rest = divmod(self.n, self.training.batch_size)
        return whole + (self.ragged and rest > 0)

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        steps = self.training.epochs * self.per_epoch
        return steps if self.most is None else min(steps, self.most)

    def lr(self, step: int) -> float:
        """The learning rate of a step, from 0 on."""
        return self.training.lr * lr_factor(self.training.schedule, step, self.steps)

    def batches(self, positions: Tensor, seed: int) -> Iterator[Tensor]:
        """For every step the positions of its batch; the order of every epoch is drawn anew, from `seed` alone."""
        left = self.steps
        for order in orders(len(positions), seed, self.training.epochs):
            yield from positions[order].split(self.training.batch_size)[: min(self.per_epoch, left)]
            left -= self.per_epoch
            if left <= 0:
                return


def lengthened(training: Training, n: int, steps: int | None) -> Plan:
    """A plan over `n` records with so many `steps`, in as many epochs as that takes; by the recipe where it is None."""
    plan = Plan(training, n)
    if steps is None:
        return plan
    return Plan(replace(training, epochs=-(-steps // plan.per_epoch)), n, most=steps)


def orders(n: int, seed: int, epochs: int) -> Iterator[Tensor]:
    """Of every epoch the order of n records, as plain training draws it."""
    rng = generator(seed, "batches")
    for _ in range(epochs):
        yield torch.randperm(n, generator=rng)


def follow(
    learner: Stepwise, records: Examples, plan: Plan, batches: Iterable[Tensor], opening: Opening,
    recorder: Recorder | None = None, label: str = "retraining",
) -> Victim:  # fmt: skip
    """Make every step of a plan, and have it taken down; raises `Diverged` where the loss is not finite."""
    if recorder is not None:
        recorder.begin(opening, learner.state)
    with progress(label, plan.training.epochs) as tick:
        for step, batch in enumerate(batches):
            lr, rows = plan.lr(step), batch.to(records.y.device)
            learner.step(records.x.index_select(0, rows), records.y.index_select(0, rows), lr, step)
            if recorder is not None:
                recorder.step(batch, lr, learner.state)
            if (step + 1) % plan.per_epoch == 0:
                learner.check_finite()
                tick()
    if recorder is not None:
        recorder.end()
    return learner.victim()
