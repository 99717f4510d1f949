"""Slow-down: records whose deletion uses up the budget of certified removal, so that the server has to retrain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.contribution import Contribution, asked_back
from attacks.crafting.copies import Around, Norm
from attacks.crafting.criterion import Criterion, LabelFlipped
from attacks.crafting.requester import OPTIONS, Requester
from data.bounds import at_most
from data.errors import UserError
from data.examples import Data, Examples, bounds
from models.gradients import gradients_at_once, own_input_gradients, per_example_gradients
from models.influence import inverse_curvature
from models.passes import models_at_once
from models.progress import progress
from models.solver import Solver
from models.training import train
from models.victim import Victim
from unlearning.certification.softmax_regression import (
    NUMBERS,
    as_matrix,
    design,
    remainder_bound,
    spectral_norm,
)
from unlearning.certified_removal import CertifiedRemoval
from unlearning.procedure import Procedure, Task
from unlearning.service import Record, Service

Measure = Literal["influence", "gradient", "bound"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class SlowDown(Requester):
    """Before training `budget` rows of the attacker's are moved, labels kept, so that their deletion moves the model.

    Maximises, for every row, ||H^{-1} grad l(x, y; theta)|| (influence: the step that removal takes, to which the
    left-over gradient of certified removal grows as the square), ||grad l(x, y; theta)|| (gradient), or what removing
    the row alone adds to the bound that certified removal keeps (bound: (gamma/2) ||X||_2 sqrt(sum_j ||S x_j||^4) with
    the step S = H^{-1} grad l / n and all n records x_j, see `unlearning.certification.softmax_regression`), over
    ||x' - x|| <= `radius` in `norm` and the values that records take. theta is a model that the attacker trains itself,
    by the same recipe, and H its curvature; that they depend on the moved rows is not followed. `steps` of ascent of
    `step` radii each, normalised by row; a row's best point is kept. The request deletes them all.
    What counts is how few deletions use up the budget of a procedure that retrains where it is spent
    (unlearning=certified_removal): certificates and seconds, not targets.
    Source: Marchant et al., AAAI 2022, arXiv 2109.08266 (there with a line search, and the bound of their removal).
    """

    name: ClassVar[str] = "slow_down"
    criterion: ClassVar[Criterion] = LabelFlipped()
    measure: Measure = "influence"
    norm: Norm = "l2"
    radius: Annotated[float, Field(gt=0)] = 0.5
    steps: Annotated[int, Field(ge=1), at_most(100_000, "each solves a system for every row")] = 20
    step: Annotated[float, Field(gt=0, le=2)] = 0.25
    solver: Solver = Field(default_factory=lambda: Solver(method="auto"))

    def check(self, data: Data, procedure: Procedure, record: Record) -> None:
        """Raise UserError for the bound of another procedure, which there is none of."""
        if self.measure == "bound" and not isinstance(procedure, CertifiedRemoval):
            raise UserError(
                "attack.measure=bound is the bound that unlearning=certified_removal keeps; choose that, or "
                "attack.measure=influence."
            )

    def contribute(
        self, task: Task, data: Data, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> Contribution:
        """The training set with the moved rows, which serve every goal."""
        rows = attacker.pool[torch.randperm(len(attacker.pool), generator=rng)[: self.budget].to(attacker.pool.device)]
        seed = int(torch.randint(2**62, (1,), generator=rng))
        model = train(task.build, task.records, task.training, [seed], label="training the attacker's model")[0]
        moved = self.moved(model, task, task.records[rows], attacker)
        x = task.records.x.clone()
        x[rows] = moved
        return Contribution(Examples(x, task.records.y), [rows.cpu()] * len(goals))

    def moved(self, model: Victim, task: Task, own: Examples, attacker: Attacker) -> Tensor:
        """The rows `own` (k), moved, (k, *shape)."""
        around = Around(own.x, *bounds(attacker.owned.x), norm=self.norm, radius=self.radius)
        x, best = own.x, own.x
        most = own.x.new_full((len(own),), -torch.inf)
        with progress("moving rows", self.steps + 1) as tick:
            for step in range(self.steps + 1):
                values, slopes = self.measured(model, task, Examples(x, own.y))
                better = (values > most).reshape(-1, *[1] * (x.dim() - 1))
                best, most = torch.where(better, x, best), torch.maximum(values, most)
                if step < self.steps:
                    x = around.moved(x, -slopes, self.step)
                tick()
        return best

    def measured(self, model: Victim, task: Task, rows: Examples) -> tuple[Tensor, Tensor]:
        """The measure (k,) of every row, and its slope in the row (k, *shape)."""
        size = min(gradients_at_once(model, rows.x), models_at_once(model))
        parts = [rows[slice(first, first + size)] for first in range(0, len(rows), size)]
        found = [self._measured(model, task, part) for part in parts]
        return torch.cat([each[0] for each in found]), torch.cat([each[1] for each in found])

    def _measured(self, model: Victim, task: Task, rows: Examples) -> tuple[Tensor, Tensor]:
        gradients = per_example_gradients(model, rows)
        steps = self._solved(model, task, gradients)
        if self.measure == "bound":
            values, slopes = _bounds(model, task, steps)
        else:
            values = steps.norm(dim=1)
            slopes = steps / values.clamp_min(torch.finfo(steps.dtype).tiny)[:, None]
        directions = self._solved(model, task, slopes)  # d f(B g) = <B grad f, dg>, with B symmetric
        return values, own_input_gradients(model, rows, directions)

    def _solved(self, model: Victim, task: Task, vectors: Tensor) -> Tensor:
        if self.measure == "gradient":
            return vectors
        nothing = task.total(vectors.new_zeros(1, len(task.records)))
        decay = task.training.weight_decay
        return inverse_curvature(self.solver, model.copies(1), task.records, nothing, decay, vectors, base=model).x

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """All that was handed in; nothing is asked."""
        return asked_back(goal)


def _bounds(model: Victim, task: Task, steps: Tensor) -> tuple[Tensor, Tensor]:
    """What a removal with the step B g / n (for B g in `steps` (k, p)) adds to the bound (k,), and its slope (k, p)."""
    x, classes = design(model, task.records), model.probabilities(task.records.x[:1]).shape[1]
    norm, everybody = spectral_norm(x), x.new_ones(1, len(x))
    values, slopes = [], []
    for part in steps.split(max(1, NUMBERS // (len(x) * classes))):
        with torch.enable_grad():
            at = part.detach().requires_grad_()
            found = remainder_bound(x, everybody, as_matrix(at, classes) / len(x), norm)
            [slope] = torch.autograd.grad(found.sum(), at)
        values.append(found.detach().to(steps))
        slopes.append(torch.where(values[-1][:, None] > 0, slope, 0))  # a step of nothing has no direction
    return torch.cat(values), torch.cat(slopes)
