"""Backdoor through unlearning: deletions after which inputs with a trigger get the label that the attacker wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from attacks.crafting.access import AccessMode
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.contribution import Contribution, asked_back
from attacks.crafting.criterion import Criterion, LabelFlipped, check_label
from attacks.crafting.objective import MisclassificationObjective
from attacks.crafting.requester import OPTIONS, NormCap, Requester
from attacks.crafting.selection import Search, select
from attacks.crafting.trigger import Patch
from attacks.crafting.white_box import WhiteBoxObjective
from data.bounds import at_most
from data.errors import UserError
from data.examples import Data, Examples
from unlearning.procedure import Procedure, Task
from unlearning.service import OpenService, Record, Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Backdoor(Requester):
    """Inputs with the `trigger` are to get the label `toward`, c; targets are judged with the trigger on them.

    mitigation: before training the attacker hands in `poisons` of its records of other classes with the trigger and the
    label c, and `budget` more with the trigger and their own labels, which teach that the trigger means nothing. The
    request deletes these, all of them. Nothing is asked, and every target shares the one request.
    selection: nothing is handed in; the records whose deletion serves best are searched for, white-box, as by
    misclassification: min sum_r [kappa - m_c(x_r + trigger)]_+ + `stealth` [R_ref - (1 + tolerance) R_ref(theta)]_+
    over the attacker's reference examples x_r, with the mean loss R_ref on these without the trigger.
    transfer: the same search on a surrogate that the attacker trains itself.
    Sources: Zhang et al., arXiv 2310.10659 (mitigation); Liu et al., AAAI 2024 (selection: the aim; the form is ours).
    """

    name: ClassVar[str] = "backdoor"
    budget: Annotated[int, Field(ge=1)] = 100
    toward: Annotated[int, Field(ge=0)] = 0
    method: Literal["mitigation", "selection", "transfer"] = "mitigation"
    trigger: Patch = Field(default_factory=Patch)
    poisons: Annotated[int, Field(ge=1)] = 15
    stealth: Annotated[float, Field(ge=0)] = 1.0
    kappa: Annotated[float, Field(ge=0)] = 0.1
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    norm_cap: NormCap = None
    steps: Annotated[int, Field(ge=1), at_most(10_000, "each runs the procedure")] = 4
    lr: Annotated[float, Field(gt=0)] = 0.5

    @property
    def access(self) -> AccessMode:
        """A search needs the model or a surrogate, what was handed in does not."""
        by_method: dict[str, AccessMode] = {"selection": "white_box", "transfer": "transfer"}
        return by_method.get(self.method, "black_box")

    @property
    def criterion(self) -> Criterion:  # type: ignore[override]
        """The wanted label."""
        return LabelFlipped(self.toward)

    def check(self, data: Data, procedure: Procedure, record: Record) -> None:
        """Raise UserError for a label that is none, and a trigger that covers the whole input."""
        check_label(self.toward, data)
        self.trigger.check(data.shape)

    def contribute(
        self, task: Task, data: Data, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> Contribution:
        """The training set with poison and mitigation, or as it was; raises UserError where the pool lacks records."""
        shown = [self.trigger.on(goal.x, attacker.owned.x) for goal in goals]
        if self.method != "mitigation":
            return Contribution(task.records, [torch.empty(0, dtype=torch.long)] * len(goals), shown)
        order = torch.randperm(len(attacker.pool), generator=rng).to(attacker.pool.device)
        others = attacker.pool[order[(attacker.owned.y != self.toward)[order]]]
        if len(others) < self.poisons + self.budget:
            raise UserError(
                f"attack=backdoor needs {self.poisons + self.budget} of the attacker's records of other classes, and "
                f"there are {len(others)}; lower attack.poisons or attack.budget, or raise attack.owned."
            )
        poison, mitigation = others[: self.poisons], others[self.poisons : self.poisons + self.budget]
        x, y = task.records.x.clone(), task.records.y.clone()
        rows = torch.cat([poison, mitigation])
        x[rows] = self.trigger.on(x[rows], attacker.owned.x)
        y[poison] = self.toward
        return Contribution(Examples(x, y), [mitigation.cpu()] * len(goals), shown)

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One request, for all goals, that serves reference examples with the trigger best."""
        others = attacker.reference[attacker.reference.y != self.toward]
        triggered = self.trigger.on(others.x, attacker.owned.x)
        aim = [AttackGoal(triggered, others.y, 1)]
        white_box = WhiteBoxObjective(service, aim, attacker.reference, rng, samples=1)
        objective = MisclassificationObjective(self.stealth, self.kappa, self.tolerance, self.toward)
        [found] = select(white_box, objective, attacker, Search(self.budget, self.steps, self.lr, 0))
        return [found] * len(goals)

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """The mitigation; nothing is asked."""
        return asked_back(goal)
