"""Baseline: delete the records with the largest influence on the targets, computed once at the victim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, SkipValidation
from pydantic.dataclasses import dataclass

from attacks.adaptive.none import NotAdaptive
from attacks.adaptive.strategy import Strategy
from attacks.crafting.access import Opened
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.functionals import Confidence, Functional
from attacks.crafting.objective import UncertaintyObjective
from attacks.crafting.requester import OPTIONS, NormCap, Requester
from attacks.crafting.selection import most_useful
from attacks.crafting.white_box import WhiteBoxObjective
from unlearning.procedure import Request
from unlearning.service import OpenService


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class OneShotInfluence(Requester):
    """The top `budget` of -dL/dw at w = 0, with L = -dir sum_t u(x_t): no search, and labels are not looked after.

    Runs the unlearning procedure not once. The influence is that of Koh and Liang, ICML 2017 (section 2.1), on u.
    """

    name: ClassVar[str] = "one_shot_influence"
    access: Opened = "white_box"
    functional: SkipValidation[Functional] = Field(default_factory=Confidence)
    norm_cap: NormCap = None
    adaptive: Strategy = Field(default_factory=NotAdaptive)

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One request of exactly `budget` deletions for every goal."""
        objective = UncertaintyObjective(self.functional, keep=0.0, keep_reference=0.0, kappa=0.0)
        white_box = WhiteBoxObjective(service, goals, attacker.reference, rng, self.functional.samples)
        allowed = attacker.may_name(len(service.task.records))
        nothing = torch.zeros(len(goals), len(allowed), dtype=white_box.dtype, device=allowed.device)
        order = most_useful(white_box.slopes(nothing, objective, white_box.start), allowed, self.budget)
        now = objective.rank(white_box.now()).tolist()
        return [AttackResult(Request(tuple(row.tolist())), value) for row, value in zip(order, now, strict=True)]
