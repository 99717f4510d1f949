"""Baseline: delete the records with the largest influence on the targets, computed once at the victim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, SkipValidation
from pydantic.dataclasses import dataclass

from attacks.crafting.attack import Access, Attacker, AttackGoal, AttackResult, check_budget, opened
from attacks.crafting.functionals import Confidence, Functional
from attacks.crafting.norm_cap import below_norm_quantile
from attacks.crafting.objective import UncertaintyObjective
from attacks.crafting.selection import most_useful
from attacks.crafting.white_box import WhiteBoxObjective
from unlearning.procedure import Request


@dataclass(
    frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
)
class OneShotInfluence:
    """The top `budget` of -dL/dw at w = 0, with L = -dir sum_t u(x_t): no search, and labels are not looked after.

    Runs the unlearning procedure not once. The influence is that of Koh and Liang, ICML 2017 (section 2.1), on u.
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "one_shot_influence"
    access: ClassVar[Literal["white_box"]] = "white_box"
    budget: Annotated[int, Field(ge=1)] = 20
    owned: Annotated[float, Field(gt=0, le=1)] = 1.0
    pool: Annotated[int, Field(ge=1)] | None = None
    functional: SkipValidation[Functional] = Field(default_factory=Confidence)
    norm_cap: Annotated[float, Field(gt=0, lt=1)] | None = None

    def craft(
        self, entrances: Sequence[Access], aims: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One request of exactly `budget` deletions for every aim."""
        check_budget(self.budget, len(attacker.pool))
        service = opened(entrances, self.name)
        allowed = below_norm_quantile(service, attacker, self.norm_cap, self.budget)
        objective = UncertaintyObjective(self.functional, keep=0.0, keep_reference=0.0, kappa=0.0)
        view = WhiteBoxObjective(service, aims, attacker.reference, rng, self.functional.samples)
        nothing = torch.zeros(len(aims), len(allowed), dtype=view.dtype, device=allowed.device)
        order = most_useful(view.slopes(nothing, objective, view.start), allowed, self.budget)
        now = objective.rank(view.now()).tolist()
        return [AttackResult(Request(tuple(row.tolist())), value) for row, value in zip(order, now, strict=True)]
