"""Amnesiac unlearning: take back the recorded training steps whose batches held a deleted record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most
from data.errors import UserError
from data.examples import Examples
from data.randomness import derive
from models.learner import Batch
from models.training import initialise, train
from models.victim import ModelStack, Tensors, Victim, stack
from unlearning.procedure import Procedure
from unlearning.task import Task

NUMBERS = 2**24  # weights of records in batches, over all candidates, that are held at once


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Amnesiac(Procedure):
    """theta' = theta - sum_B p_B(w) Delta_B with p_B = 1 - prod_{i in B} (1 - w_i): each step met is taken back once.

    Delta_B is the whole change of the parameters in the step on batch B, of SGD with momentum or of Adam, and is
    recorded while learning. A later request takes back only what earlier ones left. The result is not that of
    retraining: the steps that stay were computed where the deleted records had led, and momentum carries them. Many
    deletions meet every batch and lead back to the initialisation. Statistics of batch-norm are not taken back.

    `repair_epochs` fine-tunes on the retained records afterwards, as unlearning=fine_tune does, at `repair_lr` (which
    updates batch-norm statistics; a model from which nothing was taken is left as it is); the result is then not
    differentiable. Without it dL/dw_i = -sum_{B with i} <q, Delta_B> prod_{j in B, j != i} (1 - w_j). The server looks
    up its own record, so a perturbed copy changes nothing.
    Source: Graves et al., AAAI 2021.
    """

    remedy: ClassVar[str] = "lower training.lr, or unlearning.repair_lr (now {0.repair_lr:g})"
    learns_with: ClassVar[tuple[str, ...]] = ()  # max_gigabytes refuses, and changes nothing
    repair_epochs: Annotated[int, Field(ge=0), at_most(1_000_000, "each is a pass over the records")] = 0
    repair_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    max_gigabytes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Only the subtraction is: a repair is not."""
        return self.repair_epochs == 0

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Only a repair does."""
        return self.repair_epochs > 0

    def learn(self, task: Task, seed: int) -> Victim:
        """Train the victim; the history holds `updates` (T, p) of T steps and their `batches` (T, B).

        A batch is the positions of its records, -1 for padding and for records that were gone already: these were not
        learned, so there is nothing to take back. Raises UserError for Newton's method, which takes no such steps, and
        where the record would take more than `max_gigabytes`.
        """
        if task.training.optimizer == "newton":
            raise UserError(
                "unlearning=amnesiac records the steps of training, and training.optimizer=newton takes none; "
                "use training=sgd or training=adam."
            )
        begin = Victim(*initialise(task.build, seed, task.records.x))
        history = self._room(task, begin)
        forgotten = task.total(task.records.x.new_zeros(1, len(task.records)))
        step, before = 0, begin.flat()

        def record(batch: Batch, values: Sequence[Tensor]) -> None:
            nonlocal step, before
            after = torch.cat([value.reshape(-1) for value in values])
            history["updates"][step] = after - before
            present = torch.where(forgotten[0, batch.positions] > 0, -1, batch.positions)
            history["batches"][step, : len(present)] = present
            step, before = step + 1, after

        start, label = stack([begin]), "training the victim"
        learned = train(task.build, task.records, task.training, [seed], forgotten, start, label, record)[0]
        return replace(learned, history=history)

    def recorded(self, task: Task, size: int) -> int:
        """The change of all parameters in every step."""
        return task.training.epochs * math.ceil(len(task.records) / task.training.batch_size) * size

    def _room(self, task: Task, begin: Victim) -> Tensors:
        """Tensors to record into, if they fit."""
        size, n, recipe = begin.flat().numel(), len(task.records), task.training
        width = min(recipe.batch_size, n)
        steps = recipe.epochs * math.ceil(n / recipe.batch_size)
        gigabytes = steps * (size * task.records.x.element_size() + 8 * width) / 1e9
        if gigabytes > self.max_gigabytes:
            raise UserError(
                f"unlearning=amnesiac would record {steps:,} steps of {size:,} parameters, {gigabytes:.3g} GB, and "
                f"unlearning.max_gigabytes={self.max_gigabytes:g}; raise it, or train a smaller model, fewer epochs or "
                "larger batches."
            )
        batches = torch.full((steps, width), -1, device=task.records.x.device)
        return {"updates": begin.flat().new_zeros(steps, size), "batches": batches}

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """Take back the steps of every row of `forget_weights` (m, n), then repair."""
        if self.repair_epochs and not ((forget_weights == 0) | (forget_weights == 1)).all():
            raise UserError(
                "With unlearning.repair_epochs above 0 unlearning=amnesiac forgets whole examples; fractional deletion "
                "weights have no meaning."
            )
        earlier = task.total(torch.zeros_like(forget_weights[:1]))
        taken = _shares(victim, task.total(forget_weights)) - _shares(victim, earlier)
        models = victim.moved(-(taken @ victim.history["updates"]))
        rows = taken.any(dim=1).nonzero()[:, 0]
        return self._repaired(task, models, forget_weights, rows, seed) if self.repair_epochs and len(rows) else models

    def _repaired(self, task: Task, models: ModelStack, forget_weights: Tensor, rows: Tensor, seed: int) -> ModelStack:
        """The models with those at `rows` (r,) fine-tuned on what their requests retain."""
        recipe = replace(
            task.training,
            optimizer="sgd",
            epochs=self.repair_epochs,
            lr=self.repair_lr,
            momentum=0.9,
            schedule="constant",
        )
        seeds, weights = [derive(seed, "fine-tune")] * len(rows), task.total(forget_weights[rows])
        tuned = train(task.build, task.records, recipe, seeds, weights, models.select(rows), "repairing")
        parameters = {name: value.index_copy(0, rows, tuned.moving[name]) for name, value in models.moving.items()}
        buffers = {name: value.index_copy(0, rows, tuned.buffers[name]) for name, value in models.buffers.items()}
        return replace(models, parameters=parameters, buffers=buffers)

    def request_vjp(
        self,
        task: Task,
        victim: Victim,
        models: ModelStack,
        forget_weights: Tensor,
        cotangent: Tensor,
        submitted: Examples | None = None,
    ) -> Tensor:
        """dL/dw (m, n); zero for records that are gone already."""
        if not self.differentiable:
            raise UserError("unlearning=amnesiac has a gradient only with unlearning.repair_epochs=0.")
        total, n = task.total(forget_weights), forget_weights.shape[1]
        along = victim.pruned(cotangent) @ victim.history["updates"].T  # <q, Delta_B>, (m, T)
        slopes = forget_weights.new_zeros(len(forget_weights), n + 1)  # padding goes to a last column
        for part, batches, kept in _kept(victim, total):
            values = -along[:, part, None] * _product_of_the_others(kept)
            slopes.index_add_(1, torch.where(batches < 0, n, batches).flatten(), values.flatten(1))
        return slopes[:, :n] * (1 - task.total(torch.zeros_like(forget_weights[:1])))


def _kept(victim: Victim, total: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Steps in parts: their slice, their batches (t, B), and 1 - w (m, t, B) of the records there; 1 for padding."""
    batches = victim.history["batches"]
    retain_weights = torch.cat([1 - total, total.new_ones(len(total), 1)], dim=1)  # position -1 is the last column
    rows = max(1, NUMBERS // (len(total) * batches.shape[1]))
    for first in range(0, len(batches), rows):
        part = slice(first, first + rows)
        yield part, batches[part], retain_weights[:, batches[part]]


def _shares(victim: Victim, total: Tensor) -> Tensor:
    """p_B (m, T), the share of every step that is taken back."""
    return torch.cat([1 - kept.prod(-1) for _, _, kept in _kept(victim, total)], dim=1)


def _product_of_the_others(kept: Tensor) -> Tensor:
    """prod_{j != i} kept_j for every i of the last dimension, without a division, which zeros forbid."""
    one = kept.new_ones(*kept.shape[:-1], 1)
    before = torch.cat([one, kept[..., :-1]], dim=-1).cumprod(-1)
    after = torch.cat([kept[..., 1:], one], dim=-1).flip(-1).cumprod(-1).flip(-1)
    return before * after
