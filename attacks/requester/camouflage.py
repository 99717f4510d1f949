"""Camouflaged poisoning: poison in the training set that does nothing until its camouflage is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.contribution import Contribution, asked_back
from attacks.crafting.criterion import Criterion, LabelFlipped, check_label
from attacks.crafting.matching import Matching, matched
from attacks.crafting.requester import OPTIONS, Requester
from data.errors import UserError
from data.examples import Data, Examples, bounds
from models.training import train
from models.victim import Victim
from unlearning.procedure import Procedure, Task
from unlearning.service import Record, Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Camouflage(Requester):
    """For every target x_t with the label y_t, before training: `poisons` records that teach the label c, and `budget`
    camouflages that teach y_t. The model predicts y_t; the request deletes the camouflage, and the poison is left.

    c is `toward`, or for every target the class that comes second. Rows of the attacker's own are handed in changed.
    near (dirty labels): both are x_t + `spread` N(0, I), within the values that records take, poisons with the label c,
    camouflages, of which there are more, with y_t. matching (clean labels; Geiping et al., ICLR 2021): poisons
    are records of class c, camouflages of class y_t, with x moved by at most `matching.radius` so that the gradient of
    their loss points along that of the target's loss with the label c (y_t), at a model that the attacker trains itself
    on all records, for the camouflage on these with the poison. Which labels the victim predicts it knows; the model
    itself, and how it is drawn, not.
    Goals share one training set; the targets of one goal (`game.targets.mode=set`) share its poisons and its budget.
    Source: Di et al., arXiv 2212.10717; near is our small-scale variant.
    """

    name: ClassVar[str] = "camouflage"
    budget: Annotated[int, Field(ge=1)] = 24
    toward: Annotated[int, Field(ge=0)] | None = None
    method: Literal["near", "matching"] = "near"
    poisons: Annotated[int, Field(ge=1)] = 12
    spread: Annotated[float, Field(gt=0)] = 0.5
    matching: Matching = Field(default_factory=Matching)

    @property
    def criterion(self) -> Criterion:  # type: ignore[override]
        """A label that changed, or became the one that is wanted."""
        return LabelFlipped(self.toward)

    def check(self, data: Data, procedure: Procedure, record: Record) -> None:
        """Raise UserError for a label that is none."""
        check_label(self.toward, data)

    def contribute(
        self, task: Task, data: Data, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> Contribution:
        """The training set with poison and camouflage for every goal.

        Raises UserError where a goal has more targets than poisons or camouflages, or the pool lacks records.
        """
        most = max(len(goal.labels) for goal in goals)
        if most > min(self.poisons, self.budget):
            raise UserError(
                f"attack=camouflage needs a poison and a camouflage for each of {most} targets; raise attack.poisons "
                "and attack.budget, or set game.targets.mode=single."
            )
        number = int(torch.randint(2**62, (1,), generator=rng))
        model = _trained(task, task.records, number)
        x = torch.cat([goal.x for goal in goals])
        own = [label for goal in goals for label in goal.labels.tolist()]
        other = [self._other(model, target, label) for target, label in zip(x, own, strict=True)]
        counts = [[size for goal in goals for size in _shares(count, goal)] for count in (self.poisons, self.budget)]
        free = attacker.pool[torch.randperm(len(attacker.pool), generator=rng).to(attacker.pool.device)]
        rows = []
        for label, count in zip([*other, *own], [*counts[0], *counts[1]], strict=True):
            rows.append(self._taken(free, task.records.y, label, count))
            free = free[~torch.isin(free, rows[-1])]
        poison, camouflage = rows[: len(x)], rows[len(x) :]
        records = task.records
        for mine, labels in ((poison, other), (camouflage, own)):
            if mine is camouflage and self.method == "matching":
                model = _trained(task, records, number)
            changed = Examples(records.x.clone(), records.y.clone())
            for target, taken, label in zip(x, mine, labels, strict=True):
                made = self._made(model, target, label, records[taken], attacker, rng)
                changed.x[taken], changed.y[taken] = made.x, made.y
            records = changed
        per_goal = iter(camouflage)
        return Contribution(records, [torch.cat([next(per_goal) for _ in goal.labels]) for goal in goals])

    def _other(self, model: Victim, target: Tensor, label: int) -> int:
        """The label that the target is to get."""
        if self.toward is not None:
            return self.toward
        return next(
            found for found in model.logits(target[None])[0].argsort(descending=True).tolist() if found != label
        )

    def _taken(self, free: Tensor, y: Tensor, label: int, count: int) -> Tensor:
        """The first `count` of the `free` positions (f,); for matching, of records with the label."""
        fits = (free if self.method == "near" else free[y[free] == label])[:count]
        if len(fits) < count:
            raise UserError(
                f"attack=camouflage needs {count} records more of the attacker's for a target, and {len(fits)} are "
                "left; lower attack.poisons, attack.budget or game.targets.count, or raise attack.owned."
            )
        return fits

    def _made(
        self, model: Victim, target: Tensor, label: int, base: Examples, attacker: Attacker, rng: torch.Generator
    ) -> Examples:
        """Records (k) that teach the label for the target, in place of `base` (k)."""
        if self.method == "matching":
            return matched(model, base, target, label, attacker, self.matching, rng)[0]
        noise = torch.randn(base.x.shape, generator=rng, dtype=base.x.dtype).to(base.x)
        low, high = bounds(attacker.owned.x)
        x = target + self.spread * noise
        return Examples(torch.minimum(torch.maximum(x, low), high), torch.full_like(base.y, label))

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """The camouflage; nothing is asked."""
        return asked_back(goal)


def _shares(count: int, goal: AttackGoal) -> list[int]:
    """`count` records spread evenly over the targets of a goal."""
    targets = len(goal.labels)
    return [count // targets + (i < count % targets) for i in range(targets)]


def _trained(task: Task, records: Examples, seed: int) -> Victim:
    """A model of the attacker's own."""
    return train(task.build, records, task.training, [seed], label="training the attacker's model")[0]
