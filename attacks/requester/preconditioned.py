"""Preconditioned misclassification: rows moved before training, some of which hold targets until they are deleted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.contribution import Contribution, asked_back
from attacks.crafting.copies import Around, Norm
from attacks.crafting.criterion import Criterion, LabelFlipped, check_label
from attacks.crafting.objective import HoldObjective, MisclassificationObjective, Objective
from attacks.crafting.requester import OPTIONS, Requester
from attacks.crafting.selection import Search, most_useful, select
from attacks.crafting.white_box import WhiteBoxObjective
from data.bounds import at_most
from data.errors import UserError
from data.examples import Data, Examples, bounds
from models.gradients import weighted_input_gradients
from models.influence import inverse_curvature
from models.progress import progress
from models.solver import Solver
from models.training import train
from models.victim import ModelStack
from unlearning.procedure import Procedure, Task, as_weights
from unlearning.retrain import Retrain
from unlearning.service import OpenService, Record, Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Preconditioned(Requester):
    """For every goal, `rows` of the attacker's are moved before training, labels kept, and `budget` of them deleted:

        min_delta sum_g h_g(theta'_g(delta)) + `hold` sum_g b_g(theta_o(delta)),  ||delta_i|| <= `radius` in `norm`,

    with h the objective of misclassification, sum_t [m_yhat(x_t) + kappa]_+ (`toward`: [kappa - m_c]_+), of the model
    retrained exactly without what goal g deletes, and b = sum_t [kappa - m_yhat(x_t)]_+ of the model before, so that
    targets keep their labels until then; each with `stealth` [R_ref - (1 + tolerance) R_ref(theta)]_+. One training set
    serves all goals, and theta_o is the same for all.

    Which rows: those that the search of misclassification deletes (`search_steps`, `search_lr`), and with them those
    that move h fastest, by ||dh/dx_i||. After exact retraining theta' does not depend on the deleted rows: these can
    only hold the targets in place before, and it is the moved rows that stay which push them over. With procedures that
    compute with what they delete the deleted rows matter too; planned for is exact retraining. Slopes go through
    training by the implicit function theorem, dtheta/dx_i = -(1/n) (1 - w_i) H^{-1} grad^2_{theta x} l_i: exact for
    models trained to the minimum (training=newton), an approximation for others, which may need damping of the
    `solver`. The best of `steps` of descent of `step` radii is kept; not to move is among them, so that the plan is no
    worse than deletion alone. The attacker knows the records, the recipe and the labels that the victim predicts, and
    trains its own models: one and as many as there are goals in each step.
    Source: Qian et al., KDD 2023 (that an attacker perturbs what it contributes and deletes it later; from the abstract
    and surveys); the formulation is ours.
    """

    name: ClassVar[str] = "preconditioned"
    budget: Annotated[int, Field(ge=1)] = 15
    toward: Annotated[int, Field(ge=0)] | None = None
    rows: Annotated[int, Field(ge=1)] = 60
    norm: Norm = "linf"
    radius: Annotated[float, Field(gt=0)] = 0.3
    steps: Annotated[int, Field(ge=1), at_most(100_000, "each trains a model for every goal")] = 30
    step: Annotated[float, Field(gt=0, le=2)] = 0.25
    hold: Annotated[float, Field(ge=0)] = 1.0
    stealth: Annotated[float, Field(ge=0)] = 1.0
    kappa: Annotated[float, Field(ge=0)] = 0.1
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    search_steps: Annotated[int, Field(ge=1), at_most(10_000, "each runs the procedure")] = 4
    search_lr: Annotated[float, Field(gt=0)] = 0.5
    solver: Solver = Field(default_factory=lambda: Solver(method="auto"))

    @property
    def criterion(self) -> Criterion:  # type: ignore[override]
        """A label that changed, or became the one that is wanted."""
        return LabelFlipped(self.toward)

    def check(self, data: Data, procedure: Procedure, record: Record) -> None:
        """Raise UserError for a label that is none, and fewer rows than deletions."""
        check_label(self.toward, data)
        if self.rows < self.budget:
            raise UserError(
                f"attack.rows={self.rows} are fewer than attack.budget={self.budget}, and what is deleted is among "
                "them; raise attack.rows or lower attack.budget."
            )

    def contribute(
        self, task: Task, data: Data, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> Contribution:
        """The training set with the moved rows of all goals; raises UserError where the pool lacks records."""
        if self.rows > len(attacker.pool):
            raise UserError(
                f"attack.rows={self.rows} is more than the {len(attacker.pool)} records of the attacker's; lower "
                "attack.rows, or raise attack.owned or attack.pool."
            )
        plan = self.planned(task, goals, attacker, rng)
        around = Around(task.records.x[plan.rows], *bounds(attacker.owned.x), norm=self.norm, radius=self.radius)
        x, best, least = around.origin, around.origin, float("inf")
        with progress("moving rows before training", self.steps + 1) as tick:
            for step in range(self.steps + 1):
                value, slopes = plan.measured(x)
                tick()
                if value < least:
                    best, least = x, value
                if least == 0 or step == self.steps:  # 0: every hinge is satisfied, and no slope is left
                    break
                x = around.moved(x, slopes, self.step)
        requested = [row.nonzero()[:, 0].cpu() for row in plan.deleted]
        return Contribution(Examples(plan.moved(best), task.records.y), requested)

    def planned(self, task: Task, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator) -> Plan:
        """Which rows are deleted for each goal, and which are moved."""
        seed = int(torch.randint(2**62, (1,), generator=rng))
        model = train(task.build, task.records, task.training, [seed], label="training the attacker's model")[0]
        service = OpenService(task, Retrain(solver=self.solver), (model,), (seed,))
        white_box = WhiteBoxObjective(service, goals, attacker.reference, rng, samples=1)
        flip = MisclassificationObjective(self.stealth, self.kappa, self.tolerance, self.toward)
        found = select(white_box, flip, attacker, Search(self.budget, self.search_steps, self.search_lr, 0))
        deleted = as_weights([each.request for each in found], task.records)
        hold = HoldObjective(self.stealth, self.kappa, self.tolerance)
        plan = Plan(white_box, flip, hold, self.hold, self.solver, deleted, attacker.pool)
        lengths = plan.lengths(1 if self.norm == "linf" else 2)
        chosen = deleted[:, attacker.pool] > 0
        for row, length, mine in zip(chosen, lengths, deleted[:, attacker.pool] > 0, strict=True):
            count = self.rows - int(mine.sum())
            row[most_useful(-length[None], ~mine, count)[0]] = True
        return replace(plan, rows=attacker.pool[chosen.any(0)])

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """Those of the moved rows that are to go; nothing is asked."""
        return asked_back(goal)


@plain_dataclass(frozen=True, eq=False)
class Plan:
    """What is minimised over the training records at `rows` (k,): `flip` after deletion, `weight` times `hold` before.

    `deleted` (G, n) are the deletion weights of every goal.
    """

    white_box: WhiteBoxObjective
    flip: Objective
    hold: Objective
    weight: float
    solver: Solver
    deleted: Tensor
    rows: Tensor

    def moved(self, x: Tensor) -> Tensor:
        """All inputs (n, *shape) with `x` (k, *shape) in place of the rows."""
        whole = self.white_box.service.task.records.x.clone()
        whole[self.rows] = x
        return whole

    def measured(self, x: Tensor) -> tuple[float, Tensor]:
        """The objective with `x` (k, *shape) handed in, and its slope in them."""
        value, slopes = 0.0, torch.zeros_like(x)
        task = replace(self._task, records=Examples(self.moved(x), self._task.records.y))
        nothing = self.deleted.new_zeros(1, len(task.records))
        before = self._trained(task, nothing)
        for goals in self._parts():
            after = self._trained(task, self.deleted[goals])
            predictions, [wanted] = self.white_box.pulled([after], goals, self.flip)
            value += float(self.flip.loss(predictions).sum())
            slopes += sum(self._slopes(task, after, self.deleted[goals], wanted))
            predictions, [wanted] = self.white_box.pulled([before[0].copies(len(goals))], goals, self.hold)
            value += self.weight * float(self.hold.loss(predictions).sum())
            slopes += self.weight * next(self._slopes(task, before, nothing, wanted.sum(0, keepdim=True)))
        return value, slopes

    def lengths(self, norm: int) -> Tensor:
        """||d flip_g / dx_i|| (G, k) in the dual of linf (1) or of l2 (2), with the records as they are."""
        task, found = self._task, list[Tensor]()
        for goals in self._parts():
            after = self._trained(task, self.deleted[goals])
            _, [wanted] = self.white_box.pulled([after], goals, self.flip)
            each = self._slopes(task, after, self.deleted[goals], wanted)
            found.extend(slopes.flatten(1).norm(p=norm, dim=1) for slopes in each)
        return torch.stack(found)

    def _slopes(self, task: Task, models: ModelStack, deleted: Tensor, wanted: Tensor) -> Iterator[Tensor]:
        """dL/dx (k, *shape) of each model from its q = dL/dtheta (m, p), one after the other.

        -(1/n) (1 - w_i) grad_x <H^{-1} q, grad_theta l(x_i)>.
        """
        total, decay = task.total(deleted), task.training.weight_decay
        v = inverse_curvature(self.solver, models, task.records, total, decay, wanted).x
        weights = (total[:, self.rows] - 1) / len(task.records)
        for j in range(len(models)):
            yield weighted_input_gradients(models[j], task.records[self.rows], weights[j], v[j])

    def _trained(self, task: Task, deleted: Tensor) -> ModelStack:
        service = self.white_box.service
        return Retrain().forget(task, service.victims[0], deleted, service.seeds[0])

    def _parts(self) -> tuple[Tensor, ...]:
        return torch.arange(len(self.deleted), device=self.deleted.device).split(self.white_box.pulled_at_once())

    @property
    def _task(self) -> Task:
        return self.white_box.service.task
