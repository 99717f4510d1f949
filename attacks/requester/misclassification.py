"""Malicious deletions that flip the predicted labels of targets (selection only)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from attacks.crafting.access import AccessMode
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.black_box import BlackBoxObjective, ScoreSearch, search_scores
from attacks.crafting.criterion import Criterion, LabelFlipped
from attacks.crafting.objective import MisclassificationObjective
from attacks.crafting.requester import OPTIONS, NormCap, Requester
from attacks.crafting.selection import Search, select
from attacks.crafting.white_box import WhiteBoxObjective
from data.bounds import at_most
from unlearning.service import OpenService, Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Misclassification(Requester):
    """Minimise sum_t [m_yhat(x_t) + kappa]_+ + stealth [R_ref(theta') - (1 + tolerance) R_ref(theta)]_+, untargeted.

    White-box: relaxed search from the one-shot influence set, rounded to the top `budget`, judged by the true
    procedure. Black-box: search over scores. The goal's direction is not used: the label is what is attacked.
    Source: Qian et al., KDD 2023 (the goal, from the abstract); the formulation is ours (docs/attacks.md).
    """

    name: ClassVar[str] = "misclassification"
    criterion: ClassVar[Criterion] = LabelFlipped()
    access: AccessMode = "auto"
    stealth: Annotated[float, Field(ge=0)] = 1.0
    kappa: Annotated[float, Field(ge=0)] = 0.1
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    norm_cap: NormCap = None
    steps: Annotated[int, Field(ge=1), at_most(10_000, "each runs the procedure")] = 4
    lr: Annotated[float, Field(gt=0)] = 0.5
    queries: Annotated[int, Field(ge=1), at_most(1_000_000, "each runs the procedure")] = 1000
    search: ScoreSearch = Field(default_factory=ScoreSearch)

    @property
    def _objective(self) -> MisclassificationObjective:
        return MisclassificationObjective(self.stealth, self.kappa, self.tolerance)

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """The best sets of the relaxed search."""
        white_box = WhiteBoxObjective(service, goals, attacker.reference, rng, samples=1)
        return select(white_box, self._objective, attacker, Search(self.budget, self.steps, self.lr, 0))

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """The best of the requests that were tried."""
        black_box = BlackBoxObjective(service, goal, attacker, self._objective)
        return search_scores(black_box, self.search, self.budget, rng)
