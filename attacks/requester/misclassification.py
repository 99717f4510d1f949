"""Misclassification attack: deletions, and copies of what is deleted, that change the labels of targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from attacks.adaptive.none import NotAdaptive
from attacks.adaptive.strategy import Strategy
from attacks.crafting.access import AccessMode, opens, require_opened
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult, random_request
from attacks.crafting.black_box import BlackBoxObjective, ScoreSearch, search_scores
from attacks.crafting.copies import Copies, require_copies, search_copies
from attacks.crafting.criterion import Criterion, LabelFlipped, check_label
from attacks.crafting.joint import joint, shortest
from attacks.crafting.label_only import LabelsLost, Probes, check_feedback
from attacks.crafting.objective import MisclassificationObjective
from attacks.crafting.requester import OPTIONS, NormCap, Requester
from attacks.crafting.selection import Dampings, Search, select
from attacks.crafting.white_box import WhiteBoxObjective
from data.bounds import at_most
from data.errors import UserError
from data.examples import Data
from unlearning.procedure import Procedure
from unlearning.service import OpenService, Record, Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Misclassification(Requester):
    """Minimise sum_t [m_yhat(x_t) + kappa]_+ + stealth [R_ref(theta') - (1 + tolerance) R_ref(theta)]_+, untargeted.

    With `toward` every target is to get that label c: sum_t [kappa - m_c(x_t)]_+ in place of the first sum. The goal's
    direction is not used: the label is what is attacked.

    `records`: those that the search selects, or as many at random. White-box: relaxed search from the one-shot
    influence set, rounded to the top `budget`, judged by the true procedure. With `copies.radius` above 0 the request
    brings copies of its records, and `rounds` above 1 searches records and copies by turns. `minimal` keeps the
    shortest prefix of the request that reaches the goal. Black-box: search over records, or over copies of random
    records: it has no order in which to search both. With `feedback` labels the service answers labels only, and what
    is minimised are the labels that targets and their noisy copies (`probes`) keep.
    Source: Qian et al., KDD 2023 (the goal, from the abstract); the formulation is ours (docs/attacks.md).
    """

    name: ClassVar[str] = "misclassification"
    access: AccessMode = "auto"
    toward: Annotated[int, Field(ge=0)] | None = None
    records: Literal["search", "random"] = "search"
    stealth: Annotated[float, Field(ge=0)] = 1.0
    kappa: Annotated[float, Field(ge=0)] = 0.1
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    norm_cap: NormCap = None
    adaptive: Strategy = Field(default_factory=NotAdaptive)
    steps: Annotated[int, Field(ge=1), at_most(10_000, "each runs the procedure")] = 4
    lr: Annotated[float, Field(gt=0)] = 0.5
    dampings: Dampings = (0.01, 0.1)
    copies: Copies = Field(default_factory=Copies)
    rounds: Annotated[int, Field(ge=1), at_most(1000, "each runs the procedure many times")] = 1
    minimal: bool = False
    feedback: Literal["score", "labels"] = "score"
    probes: Probes = Field(default_factory=Probes)
    queries: Annotated[int, Field(ge=1), at_most(1_000_000, "each runs the procedure")] = 1000
    search: ScoreSearch = Field(default_factory=ScoreSearch)

    @property
    def criterion(self) -> Criterion:  # type: ignore[override]
        """A label that changed, or became the one that is wanted."""
        return LabelFlipped(self.toward)

    def check_access(self, access: AccessMode) -> None:
        """Some options need the gradient, and a black box shows none."""
        super().check_access(access)
        require_opened(access, {"attack.minimal": self.minimal, f"attack.rounds={self.rounds}": self.rounds > 1})
        if access == "black_box" and self.copies.radius > 0 and self.records == "search":
            raise UserError(
                "A black-box attack searches records or copies: set attack.records=random, or attack.copies.radius=0."
            )
        check_feedback(self.feedback, access)
        self.search.check_budget(self.budget)

    def check(self, data: Data, procedure: Procedure, record: Record) -> None:
        """Raise UserError for a label that is none, and copies that have no effect."""
        check_label(self.toward, data)
        if self.copies.radius > 0 and opens(self.access):
            require_copies(procedure, record, self.name)

    @property
    def _objective(self) -> MisclassificationObjective:
        return MisclassificationObjective(self.stealth, self.kappa, self.tolerance, self.toward)

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """The best sets of the relaxed search, with the best copies that were found."""
        white_box, objective = WhiteBoxObjective(service, goals, attacker.reference, rng, samples=1), self._objective
        if self.records == "random":
            found = [AttackResult(random_request(attacker, self.budget, rng), float("inf")) for _ in goals]
        else:
            found = select(
                white_box, objective, attacker, Search(self.budget, self.steps, self.lr, 0, dampings=self.dampings)
            )
        if self.copies.radius > 0:
            found = joint(white_box, objective, attacker, found, self.copies, self.rounds)
        return shortest(white_box, objective, found, objective.reached) if self.minimal else found

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """The best of the requests that were tried."""
        if self.feedback == "labels":
            wanted = LabelsLost(self.stealth, self.tolerance, self.toward)
            noisy = self.probes.around(goal, rng)
            black_box = BlackBoxObjective(service, goal, attacker, wanted, noisy, self._objective)
        else:
            black_box = BlackBoxObjective(service, goal, attacker, self._objective)
        if self.copies.radius > 0:
            return search_copies(black_box, attacker, random_request(attacker, self.budget, rng), self.copies, rng)
        return search_scores(black_box, self.search, self.budget, rng)
