"""Malicious deletions that flip the predicted labels of targets (selection only)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
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
from attacks.crafting.criterion import Criterion, LabelFlipped
from attacks.crafting.norm_cap import below_norm_quantile
from attacks.crafting.objective import MisclassificationObjective
from attacks.crafting.selection import Search, select
from data.bounds import at_most
from data.errors import UserError
from models.progress import progress


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Misclassification:
    """Minimise sum_t [m_yhat(x_t) + kappa]_+ + stealth [R_ref(theta') - (1 + tolerance) R_ref(theta)]_+, untargeted.

    White-box: relaxed search from the one-shot influence set, rounded to the top `budget`, judged by the true
    procedure. Black-box: search over scores. The aim's direction is not used: the label is what is attacked.
    Source: Qian et al., KDD 2023 (the aim, from the abstract); the formulation is ours (docs/attacks.md).
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "misclassification"
    criterion: ClassVar[Criterion] = LabelFlipped()
    budget: Annotated[int, Field(ge=1)] = 20
    owned: Annotated[float, Field(gt=0, le=1)] = 1.0
    pool: Annotated[int, Field(ge=1)] | None = None
    access: AccessMode = "auto"
    stealth: Annotated[float, Field(ge=0)] = 1.0
    kappa: Annotated[float, Field(ge=0)] = 0.1
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    norm_cap: Annotated[float, Field(gt=0, lt=1)] | None = None
    steps: Annotated[int, Field(ge=1), at_most(10_000, "each runs the procedure")] = 4
    lr: Annotated[float, Field(gt=0)] = 0.5
    queries: Annotated[int, Field(ge=1), at_most(1_000_000, "each runs the procedure")] = 1000
    search: ScoreSearch = Field(default_factory=ScoreSearch)

    def __post_init__(self) -> None:
        self._check(self.access)

    def _check(self, access: AccessMode) -> None:
        if access == "black_box" and self.norm_cap is not None:
            raise UserError("attack.norm_cap needs gradients of the victim; use it with attack.access=white_box.")

    def craft(
        self, entrances: Sequence[Access], aims: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One request of at most `budget` deletions for every aim; raises UserError where the pairing cannot work."""
        check_budget(self.budget, len(attacker.pool))
        access = resolved_access(self.access, entrances)
        self._check(access)
        objective = MisclassificationObjective(self.stealth, self.kappa, self.tolerance)
        if access == "white_box":
            service = opened(entrances, self.name)
            allowed = below_norm_quantile(service, attacker, self.norm_cap, self.budget)
            return select(service, aims, attacker, objective, Search(self.budget, self.steps, self.lr, 0), allowed, rng)
        crafted = []
        with progress("crafting requests", len(aims)) as tick:
            for entrance, aim in zip(entrances, aims, strict=True):
                seen = BlackBoxObjective(closed(entrance), aim, attacker, objective)
                crafted.append(search_scores(seen, self.search, self.budget, rng))
                tick()
        return crafted
