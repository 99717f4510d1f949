"""Attack on predictive uncertainty: deletions that make targets over- or under-confident and keep their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, SkipValidation
from pydantic.dataclasses import dataclass

from attacks.adaptive.none import NotAdaptive
from attacks.adaptive.strategy import Strategy
from attacks.crafting.access import AccessMode
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.black_box import BlackBoxObjective, ScoreSearch, search_scores
from attacks.crafting.functionals import Confidence, Functional
from attacks.crafting.label_only import LabelsKept, Probes, check_feedback
from attacks.crafting.objective import UncertaintyObjective
from attacks.crafting.requester import OPTIONS, NormCap, Requester
from attacks.crafting.selection import Dampings, Search, select
from attacks.crafting.sequential import closed_loop
from attacks.crafting.white_box import WhiteBoxObjective
from data.bounds import at_most
from data.errors import UserError
from unlearning.service import Feedback, OpenService, Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Uncertainty(Requester):
    """Minimise -dir sum_t u(x_t) + keep sum_t [kappa - m_yhat(x_t)]_+ + keep_reference mean_ref [kappa - m_yhat(x)]_+.

    White-box: relaxed search from the one-shot influence set, then prefixes of the order, then single additions, all
    judged by the true procedure; with `feasible_first` only sets that keep every target's label count.
    Black-box: `feedback` score searches with rolled-back trials; sequential deletes for good,
    `per_query` records a query (a game judges what was deleted in all as one request); with labels trials are rolled
    back and show no confidence, in place of which stands the share of noisy copies (`probes`) that keep the label.
    `norm_cap` is the adaptive attacker: only records whose gradient norm is below that quantile are named (white-box).
    Source: Qian et al., arXiv 2508.07458 (the goal, from the abstract); the formulation is ours (docs/attacks.md).
    """

    name: ClassVar[str] = "uncertainty"
    access: AccessMode = "auto"
    functional: SkipValidation[Functional] = Field(default_factory=Confidence)
    keep: Annotated[float, Field(ge=0)] = 5.0
    keep_reference: Annotated[float, Field(ge=0)] = 1.0
    kappa: Annotated[float, Field(ge=0)] = 0.05
    feasible_first: bool = True
    norm_cap: NormCap = None
    adaptive: Strategy = Field(default_factory=NotAdaptive)
    steps: Annotated[int, Field(ge=1), at_most(10_000, "each runs the procedure")] = 2
    lr: Annotated[float, Field(gt=0)] = 0.5
    dampings: Dampings = (0.01, 0.1)
    prefixes: Annotated[int, Field(ge=0), at_most(10_000, "each runs the procedure")] = 7
    rounds: Annotated[int, Field(ge=0), at_most(10_000, "each runs the procedure")] = 2
    width: Annotated[int, Field(ge=1)] = 3
    feedback: Feedback = "score"
    probes: Probes = Field(default_factory=Probes)
    queries: Annotated[int, Field(ge=1), at_most(1_000_000, "each runs the procedure")] = 1000
    search: ScoreSearch = Field(default_factory=ScoreSearch)
    per_query: Annotated[int, Field(ge=1)] = 1
    ridge: Annotated[float, Field(gt=0)] = 1.0

    def check_access(self, access: AccessMode) -> None:
        """Its functional may need more than a black box shows, and other feedback than scores is a black box's."""
        super().check_access(access)
        if access == "black_box" and not self.functional.from_probabilities:
            name = type(self.functional).__name__
            raise UserError(
                f"The functional {name} needs more than predicted probabilities, and black-box access gives no more; "
                "use attack.access=white_box or another attack/functional."
            )
        check_feedback(self.feedback, access)
        self.search.check_budget(self.budget)
        if self.feedback == "labels" and not isinstance(self.functional, Confidence):
            raise UserError(
                "attack.feedback=labels shows labels only, from which nothing but confidence is estimated; use "
                "attack/functional=confidence."
            )

    @property
    def _objective(self) -> UncertaintyObjective:
        return UncertaintyObjective(self.functional, self.keep, self.keep_reference, self.kappa, self.feasible_first)

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """The best feasible sets of the relaxed search, its prefixes and single additions."""
        white_box = WhiteBoxObjective(service, goals, attacker.reference, rng, self.functional.samples)
        search = Search(self.budget, self.steps, self.lr, self.prefixes, self.rounds, self.width, self.dampings)
        return select(white_box, self._objective, attacker, search)

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """The best feasible request that was tried, or all that was deleted for good."""
        if self.feedback == "labels":
            wanted = LabelsKept(self.keep, self.keep_reference, self.feasible_first)
            asked = BlackBoxObjective(service, goal, attacker, wanted, self.probes.around(goal, rng), self._objective)
            return search_scores(asked, self.search, self.budget, rng)
        black_box = BlackBoxObjective(service, goal, attacker, self._objective)
        if self.feedback == "sequential":
            return closed_loop(black_box, self.budget, self.per_query, self.ridge)
        return search_scores(black_box, self.search, self.budget, rng)
