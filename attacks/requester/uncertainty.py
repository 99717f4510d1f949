"""Attack on predictive uncertainty: deletions that make targets over- or under-confident and keep their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field, SkipValidation
from pydantic.dataclasses import dataclass

from attacks.crafting.attack import (
    Access,
    AccessMode,
    Attacker,
    AttackGoal,
    AttackResult,
    check_budget,
    closed,
    opened,
    resolved_access,
)
from attacks.crafting.black_box import BlackBoxObjective, ScoreSearch, search_scores
from attacks.crafting.functionals import Confidence, Functional
from attacks.crafting.norm_cap import below_norm_quantile
from attacks.crafting.objective import UncertaintyObjective
from attacks.crafting.selection import Search, select
from attacks.crafting.sequential import closed_loop
from data.bounds import at_most
from data.errors import UserError
from models.progress import progress
from unlearning.service import Feedback


@dataclass(
    frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
)
class Uncertainty:
    """Minimise -dir sum_t u(x_t) + keep sum_t [kappa - m_yhat(x_t)]_+ + keep_reference mean_ref [kappa - m_yhat(x)]_+.

    White-box: relaxed search from the one-shot influence set, then prefixes of the order, then single additions, all
    judged by the true procedure; with `feasible_first` only sets that keep every target's label count.
    Black-box: `feedback` score searches over scores with rolled-back trials; sequential deletes for good,
    `per_query` records a query (a game judges what was deleted in all as one request).
    `norm_cap` is the adaptive attacker: only records whose gradient norm is below that quantile are named (white-box).
    Source: Qian et al., arXiv 2508.07458 (the aim, from the abstract); the formulation is ours (docs/attacks.md).
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "uncertainty"
    budget: Annotated[int, Field(ge=1)] = 20
    owned: Annotated[float, Field(gt=0, le=1)] = 1.0
    pool: Annotated[int, Field(ge=1)] | None = None
    access: AccessMode = "auto"
    functional: SkipValidation[Functional] = Field(default_factory=Confidence)
    keep: Annotated[float, Field(ge=0)] = 5.0
    keep_reference: Annotated[float, Field(ge=0)] = 1.0
    kappa: Annotated[float, Field(ge=0)] = 0.05
    feasible_first: bool = True
    norm_cap: Annotated[float, Field(gt=0, lt=1)] | None = None
    steps: Annotated[int, Field(ge=1), at_most(10_000, "each runs the procedure")] = 2
    lr: Annotated[float, Field(gt=0)] = 0.5
    prefixes: Annotated[int, Field(ge=0), at_most(10_000, "each runs the procedure")] = 7
    rounds: Annotated[int, Field(ge=0), at_most(10_000, "each runs the procedure")] = 2
    width: Annotated[int, Field(ge=1)] = 3
    feedback: Feedback = "score"
    queries: Annotated[int, Field(ge=1), at_most(1_000_000, "each runs the procedure")] = 1000
    search: ScoreSearch = Field(default_factory=ScoreSearch)
    per_query: Annotated[int, Field(ge=1)] = 1
    ridge: Annotated[float, Field(gt=0)] = 1.0

    def __post_init__(self) -> None:
        self._check(self.access)

    def _check(self, access: AccessMode) -> None:
        if access == "black_box" and not self.functional.from_probabilities:
            name = type(self.functional).__name__
            raise UserError(
                f"The functional {name} needs more than predicted probabilities, and black-box access gives no more; "
                "use attack.access=white_box or another attack/functional."
            )
        if access == "white_box" and self.feedback == "sequential":
            raise UserError("attack.feedback=sequential is a black-box setting; use it with attack.access=black_box.")
        if access == "black_box" and self.norm_cap is not None:
            raise UserError("attack.norm_cap needs gradients of the victim; use it with attack.access=white_box.")

    def craft(
        self, entrances: Sequence[Access], aims: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One request of at most `budget` deletions for every aim; raises UserError where the pairing cannot work."""
        check_budget(self.budget, len(attacker.pool))
        access = resolved_access(self.access, entrances)
        self._check(access)
        objective = UncertaintyObjective(
            self.functional, self.keep, self.keep_reference, self.kappa, self.feasible_first
        )
        if access == "white_box":
            service = opened(entrances, self.name)
            allowed = below_norm_quantile(service, attacker, self.norm_cap, self.budget)
            search = Search(self.budget, self.steps, self.lr, self.prefixes, self.rounds, self.width)
            return select(service, aims, attacker, objective, search, allowed, rng, self.functional.samples)
        crafted = []
        with progress("crafting requests", len(aims)) as tick:
            for entrance, aim in zip(entrances, aims, strict=True):
                seen = BlackBoxObjective(closed(entrance), aim, attacker, objective)
                if self.feedback == "sequential":
                    crafted.append(closed_loop(seen, self.budget, self.per_query, self.ridge))
                else:
                    crafted.append(search_scores(seen, self.search, self.budget, rng))
                tick()
        return crafted
