"""Unlearn and burn: copies that no training set holds, whose unlearning ruins the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from attacks.crafting.access import AccessMode, opens
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult, random_request
from attacks.crafting.black_box import BlackBoxObjective
from attacks.crafting.copies import Copies, perturbed, require_copies, search_copies
from attacks.crafting.criterion import Criterion, LabelFlipped
from attacks.crafting.objective import DamageObjective
from attacks.crafting.requester import OPTIONS, Requester
from attacks.crafting.white_box import WhiteBoxObjective
from data.bounds import at_most
from data.examples import Data
from unlearning.procedure import Procedure
from unlearning.service import OpenService, Record, Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Burn(Requester):
    """Maximise the mean loss R_ref(theta') of the attacker's reference examples over copies x~ of random records.

    The request names `budget` of the attacker's records and brings x~_i with ||x~_i - x_i||_2 <= `copies.radius` for
    every single one, with the record's own label. White-box: descent through the procedure, as deployed. Black-box:
    gradients estimated from antithetic pairs of requests. The best copies are kept. Goals are not used: whatever the
    model predicts is to be ruined, so that `game.targets.mode=set` plays one request a direction. Batch-norm
    statistics take no part: our procedures leave them as they are.
    Source: Huang et al., arXiv 2410.09591 (the aim, and the projection to a ball; there the bound is on the mean norm).
    """

    name: ClassVar[str] = "burn"
    criterion: ClassVar[Criterion] = LabelFlipped()
    access: AccessMode = "auto"
    copies: Copies = Field(default_factory=lambda: Copies(norm="l2", radius=3.0))
    queries: Annotated[int, Field(ge=1), at_most(1_000_000, "each runs the procedure")] = 3000

    def check(self, data: Data, procedure: Procedure, record: Record) -> None:
        """Raise UserError where copies have no effect that could be differentiated."""
        if opens(self.access):
            require_copies(procedure, record, self.name)

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """The copies that descent finds, from the records themselves."""
        white_box = WhiteBoxObjective(service, goals, attacker.reference, rng, samples=1)
        drawn = [AttackResult(random_request(attacker, self.budget, rng), float("inf")) for _ in goals]
        return perturbed(white_box, DamageObjective(), attacker, drawn, self.copies)

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """The best copies that were tried."""
        black_box = BlackBoxObjective(service, goal, attacker, DamageObjective())
        return search_copies(black_box, attacker, random_request(attacker, self.budget, rng), self.copies, rng)
