"""Attack on adversarial robustness: deletions after which small perturbations of targets change their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from attacks.crafting.access import Opened
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.criterion import Criterion, LabelLostNearby
from attacks.crafting.objective import RobustnessObjective
from attacks.crafting.perturbation import Perturbation
from attacks.crafting.requester import OPTIONS, NormCap, Requester
from attacks.crafting.selection import Search, select
from attacks.crafting.white_box import WhiteBoxObjective
from data.bounds import at_most
from unlearning.service import OpenService

JUDGED = {"steps": 50, "rivals": 3}  # at least, with which a game looks for the worst inputs


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class AdversarialRobustness(Requester):
    """Maximise sum_t max_{||e|| <= rho} l(x_t + e, y_t; theta'(w)) over deletions, y_t the label predicted at first.

    The relaxed search of the white-box attacks: at every candidate model, relaxed or not, the perturbed targets are
    searched for anew (`perturbation`, projected gradient ascent), and slopes dL/dw go through the model at these inputs
    (Danskin's theorem: where the worst input is unique, the slope of the maximum is that at the worst input). Sets are
    judged by the true procedure at their own worst inputs. A request is judged by whether some perturbation changes
    the label, with at least 50 steps towards each of at least 3 labels; targets themselves may keep theirs.
    Source: Zhao et al., ICML 2024 (the goal, from the abstract); the formulation is ours.
    """

    name: ClassVar[str] = "adversarial_robustness"
    access: Opened = "white_box"
    norm_cap: NormCap = None
    steps: Annotated[int, Field(ge=1), at_most(10_000, "each runs the procedure")] = 4
    lr: Annotated[float, Field(gt=0)] = 0.5
    perturbation: Perturbation = Field(default_factory=Perturbation)

    @property
    def criterion(self) -> Criterion:  # type: ignore[override]
        """A label that is lost within the perturbation."""
        effort = {name: max(least, getattr(self.perturbation, name)) for name, least in JUDGED.items()}
        return LabelLostNearby(replace(self.perturbation, **effort))

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """The best sets of the relaxed search."""
        nearby = self.perturbation.within(service.task.records.x)
        white_box = WhiteBoxObjective(service, goals, attacker.reference, rng, samples=1, shown=nearby.worst)
        return select(white_box, RobustnessObjective(), attacker, Search(self.budget, self.steps, self.lr, 0))
