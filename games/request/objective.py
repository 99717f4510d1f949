"""The functional that an attack was after, measured on the targets in every state, by judged models."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import torch
from torch import Tensor

from attacks.crafting.attacked import attacked, log_probabilities
from attacks.crafting.functionals import Confidence, Functional, label_of
from data.examples import Data
from data.randomness import generator
from games.request.evaluation import Look
from games.request.targets import Targets
from models.victim import ModelStack, Victim


class AttackedObjective:
    """u(x; theta) of every target by state, in the unit of the functional; larger is less certain.

    Every state is seen through the same dropout masks, where the functional has any. `measured` is False for attacks
    without a functional, and for confidence, which every state has anyway.
    """

    def __init__(self, functional: Functional | None, data: Data, chosen: Targets, seed: int) -> None:
        self.functional, self.chosen, self.seed = functional, chosen, seed
        self.measured = functional is not None and not isinstance(functional, Confidence)
        targets = data.test.x[chosen.positions] if chosen.shown is None else chosen.shown
        self.x = torch.cat([targets, data.conformal_trusted.x])
        self.truth = data.conformal_trusted.y
        self.values: dict[str, list[float]] = {}

    @property
    def label(self) -> str | None:
        """What was attacked, in words; None for attacks without a functional."""
        return None if self.functional is None else label_of(self.functional)

    def before(self, victims: Sequence[Victim]) -> None:
        """Measure the victims themselves."""
        if self.measured:
            rows = torch.zeros(len(self.chosen.labels), dtype=torch.long)
            self.values["before"] = self._of([victim.copies(1) for victim in victims], rows).tolist()

    def look(self, name: str, goals: Sequence[int]) -> Look:
        """A look at the models of the state `name`, one for each of the `goals`, in their order."""
        self.values.setdefault(name, [nan] * len(self.chosen.labels))
        owner = self.chosen.goal_of.tolist()

        def measure(models: Sequence[ModelStack], which: slice, predictions: Tensor) -> None:
            row = {goal: k for k, goal in enumerate(goals[which])}
            mine = [i for i, goal in enumerate(owner) if goal in row]
            rows = torch.tensor([row.get(goal, 0) for goal in owner])
            found = self._of(models, rows).tolist()
            for i in mine:
                self.values[name][i] = found[i]

        return measure

    def _of(self, models: Sequence[ModelStack], rows: Tensor) -> Tensor:
        assert self.functional is not None
        log_p = log_probabilities(self.functional, models, self.x, generator(self.seed, "judged functional"))
        return attacked(self.functional, log_p, self.chosen.labels, rows.to(log_p.device), self.truth)
