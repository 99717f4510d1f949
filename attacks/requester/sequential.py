"""Sequential attack: deletions asked for in stages, while others ask for theirs, that change the labels of targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.access import AccessMode, require_opened
from attacks.crafting.adjoint import require_plannable
from attacks.crafting.asked_in_stages import asked_in_stages, stage_queries
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.black_box import ScoreSearch, check_search
from attacks.crafting.criterion import Criterion, LabelFlipped, check_label
from attacks.crafting.objective import MisclassificationObjective
from attacks.crafting.policies import Planner, adjoint, closed_loop, mpc, open_loop
from attacks.crafting.requester import OPTIONS, NormCap, Requester
from attacks.crafting.stages import Course, Policy, carried_out, of_others, stage_sizes
from attacks.crafting.white_box import WhiteBoxObjective
from data.bounds import at_most
from data.errors import UserError
from data.examples import Data
from models.passes import models_at_once
from unlearning.procedure import Procedure, Request
from unlearning.service import OpenService, Record, Service

Solver = Literal["open_loop", "closed_loop", "mpc", "adjoint"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Sequential(Requester):
    """Minimise E [L(theta_T) + sum_{0 < t < T} c(theta_t)] over what is asked for at `stages` T = 1, 2, ...

    L is the objective of misclassification (`kappa`, `tolerance`, `stealth`, `toward`), c = stealth penalty + early
    sum_t [kappa - m_yhat(x_t)]_+ keeps a model unnoticed before the last stage: `early` defers the trigger. A stage
    names at most `per_stage` records (null spreads the budget), and `benign` records of others, drawn at random and not
    known ahead, are deleted with them. The stages are carried out on the provider, and the result is the union of what
    was asked for, in its order, which a game carries out at once; with `judged` stages it asks for them one after the
    other too, each in a stream of its own.

    `solver`: open_loop ranks the records once, by their slopes, and splits the list; closed_loop ranks them anew at
    every stage, at the current model and retained records; adjoint plans all stages by projected gradients (`steps`,
    `lr`), averaged over `scenarios` of what others may ask for; mpc plans anew at every stage, and carries out the
    first. The last two need an exact procedure or one whose chain has a gradient. Black-box: closed_loop, whose
    requests are searched by trials; others' requests are then played by records of the attacker's own, since it can
    name no other.
    Source: Zhao et al., NeurIPS 2023 (the goal, and stages as stochastic optimal control, from the abstract); the
    formulation is ours (docs/attacks.md).
    """

    name: ClassVar[str] = "sequential"
    access: AccessMode = "auto"
    solver: Solver = "closed_loop"
    stages: Annotated[int, Field(ge=1), at_most(1000, "each runs the procedure")] = 5
    per_stage: Annotated[int, Field(ge=1)] | None = None
    judged: Literal["union", "stages"] = "union"
    benign: Annotated[int, Field(ge=0), at_most(1_000_000, "all are deleted")] = 10
    toward: Annotated[int, Field(ge=0)] | None = None
    stealth: Annotated[float, Field(ge=0)] = 1.0
    early: Annotated[float, Field(ge=0)] = 0.0
    kappa: Annotated[float, Field(ge=0)] = 0.4
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    norm_cap: NormCap = None
    scenarios: Annotated[int, Field(ge=1), at_most(1000, "each runs the procedure")] = 4
    steps: Annotated[int, Field(ge=1), at_most(10_000, "each runs the procedure")] = 6
    lr: Annotated[float, Field(gt=0)] = 0.5
    queries: Annotated[int, Field(ge=1), at_most(1_000_000, "each runs the procedure")] = 1000
    search: ScoreSearch = Field(default_factory=ScoreSearch)

    @property
    def criterion(self) -> Criterion:  # type: ignore[override]
        """A label that changed, or became the one that is wanted."""
        return LabelFlipped(self.toward)

    @property
    def streams(self) -> int:
        """In how many streams a game has its request."""
        return self.stages if self.judged == "stages" else 1

    def check_access(self, access: AccessMode) -> None:
        """A black box shows no slopes to rank or to plan with."""
        super().check_access(access)
        require_opened(access, {f"attack.solver={self.solver}": self.solver != "closed_loop"})
        self.search.check_budget(max(self.sizes))

    def check(self, data: Data, procedure: Procedure, record: Record) -> None:
        """Raise UserError for a label that is none, too few records or queries, and chains without a gradient."""
        check_label(self.toward, data)
        owned = round(self.owned * len(data.train))
        pool = owned if self.pool is None else min(owned, self.pool)
        if self.access == "white_box":
            self._check_white_box(len(data.train), procedure)
        elif self.access == "transfer":
            self._check_white_box(pool + len(data.auxiliary), procedure)  # what a surrogate learns
        else:
            self._check_black_box(pool)

    def _check_white_box(self, records: int, procedure: Procedure) -> None:
        self._check_size(records, "training records")
        if self.solver in ("mpc", "adjoint"):
            require_plannable(procedure, self.solver)

    def _check_black_box(self, pool: int) -> None:
        left = self._check_size(pool, "records that the attacker may name")
        tries = stage_queries(self.queries, self.stages)
        if tries < 1:
            raise UserError(
                f"attack.queries={self.queries} leaves no trial for attack.stages={self.stages}, of which each takes "
                "one query to be carried out; raise attack.queries."
            )
        for candidates in (pool, left + 1):  # at the first stage, and at the last at least
            check_search(self.search, candidates, tries)

    def _check_size(self, records: int, what: str) -> int:
        most = self.budget + self.stages * self.benign
        if most > records:
            raise UserError(
                f"attack.budget={self.budget} and attack.benign={self.benign} at each of attack.stages={self.stages} "
                f"are {most} records, and there are {records} {what}; lower one of them."
            )
        return records - most

    @property
    def sizes(self) -> list[int]:
        """How many records each stage may name."""
        return stage_sizes(self.budget, self.stages, self.per_stage)

    @property
    def _objective(self) -> MisclassificationObjective:
        return MisclassificationObjective(self.stealth, self.kappa, self.tolerance, self.toward)

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """What was asked for in all stages, by goal; the curve is the objective after each stage."""
        found = self.courses(service, goals, attacker, rng)
        return [
            AttackResult(
                Request(each.records), float(each.losses[-1]), tuple(each.losses.tolist()),
                stages=self._said(map(len, each.named)),
            )
            for each in found
        ]  # fmt: skip

    def _said(self, stages: Iterable[int]) -> tuple[int, ...]:
        """How many records each stage named, where the game is to know."""
        return tuple(stages) if self.judged == "stages" else ()

    def courses(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[Course]:
        """How the stages went, by goal: what was named and deleted, margins, and reference accuracy.

        What others ask for is drawn first, so that every solver meets the same requests. Raises UserError as `check`.
        """
        count, found = len(service.task.records), []
        self._check_white_box(count, service.procedure)
        every = torch.arange(count, device=attacker.pool.device)
        others = [of_others(every, self.stages, self.benign, rng) for _ in goals]
        size = models_at_once(service.victims[0])  # the models of so many goals are held
        for first in range(0, len(goals), size):
            part = slice(first, first + size)
            white_box = WhiteBoxObjective(service, goals[part], attacker.reference, rng, samples=1)
            policy = self._policy(white_box, attacker.may_name(count), rng)
            found += carried_out(white_box, self._objective, others[part], policy)
        return found

    def _policy(self, white_box: WhiteBoxObjective, allowed: Tensor, rng: torch.Generator) -> Policy:
        objective, sizes = self._objective, self.sizes
        if self.solver == "open_loop":
            return open_loop(white_box, objective, allowed, sizes)
        if self.solver == "closed_loop":
            return closed_loop(objective, self.early, allowed, sizes)
        planner = Planner(objective, self.early, allowed, sizes, self.scenarios, self.benign, self.steps, self.lr, rng)
        return mpc(planner) if self.solver == "mpc" else adjoint(white_box, planner)

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """What was asked for in all stages; the curve is the objective after each stage."""
        self._check_black_box(len(attacker.pool))
        others = of_others(attacker.pool, self.stages, self.benign, rng)
        found = asked_in_stages(
            service, goal, attacker, self._objective, self.early, self.sizes, others, self.search, rng
        )
        return replace(found, stages=self._said(found.stages))
