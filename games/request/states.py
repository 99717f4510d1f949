"""What happened to the targets in each state of a game, and what the models of that state are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attacks.crafting.criterion import Criterion
from games.request.evaluation import Judge, on_targets
from games.request.quantities import OF_TARGETS, SIGN
from games.request.targets import Targets

PER_TARGET = tuple(each.name for each in OF_TARGETS)


@dataclass(frozen=True, eq=False)
class Observer:
    """Describes the targets of a game as its attack's `criterion` sees them.

    `start` (n_test + n_conformal, K) are the predictions before anything was deleted.
    """

    judge: Judge
    chosen: Targets
    criterion: Criterion
    start: Tensor

    def before(self) -> dict[str, Any]:
        """The state before anything was deleted; nothing is attained in it, unless labels are lost nearby already."""
        return self.state(self.start[None], [0] * len(self.chosen.goals))

    def state(self, probabilities: Tensor, model_of_aim: Sequence[int] | None = None) -> dict[str, Any]:
        """Per target, under the model of its goal: confidence, entropy, kept, attained, success; each model's metrics.

        `probabilities` (m, n_test + n_conformal, K) of m models, one for every goal unless `model_of_aim` says which.
        """
        return {**self.targets(probabilities, model_of_aim), "models": self.judge.model_levels(probabilities)}

    def targets(self, probabilities: Tensor, model_of_aim: Sequence[int] | None = None) -> dict[str, Any]:
        """The targets alone."""
        chosen = self.chosen
        models = torch.arange(len(chosen.goals)) if model_of_aim is None else torch.tensor(model_of_aim)
        rows = models[chosen.goal_of.cpu()].to(probabilities.device)
        found = on_targets(probabilities[rows], self._places, chosen.labels)
        return self._judged(found, self._short_of_goal(probabilities[rows], found["kept"]))

    def _short_of_goal(self, probabilities: Tensor, kept: list[float]) -> Tensor:
        """Whether a target still has its label, also nearby, or has not got the one that it is to get, (T,)."""
        toward = getattr(self.criterion, "toward", None)
        if self.judge.probed:
            each = torch.arange(len(probabilities), device=probabilities.device)
            nearby = probabilities[each, self.judge.first_probed + each].argmax(-1) == self.chosen.labels
            return nearby.double().cpu()
        if toward is None:
            return torch.tensor(kept, dtype=torch.float64)
        each = torch.arange(len(probabilities), device=probabilities.device)
        return (probabilities[each, self._places].argmax(-1) != toward).double().cpu()

    def averaged(self, probabilities: Tensor) -> dict[str, Any]:
        """The state under models (m, ...) that belong to no goal: every target under each of them, averaged."""
        goals = len(self.chosen.goals)
        states = [self.targets(p[None], [0] * goals) for p in probabilities]
        columns = {name: torch.tensor([each[name] for each in states], dtype=torch.float64) for name in PER_TARGET}
        mean = {name: values.mean(0).tolist() for name, values in columns.items()}
        return {**mean, "models": self.judge.model_levels(probabilities)}

    @cached_property
    def _places(self) -> Tensor:
        return self.chosen.judged_at(self.judge.clean)

    @cached_property
    def _first(self) -> Tensor:
        """The confidence of every target before anything was deleted (T,)."""
        chosen = self.chosen
        found = on_targets(self.start.expand(len(chosen.labels), *self.start.shape), self._places, chosen.labels)
        return torch.tensor(found["confidence"], dtype=torch.float64)

    def _judged(self, found: dict[str, list[float]], kept: Tensor) -> dict[str, list[float]]:
        change = torch.tensor(found["confidence"], dtype=torch.float64) - self._first
        wanted = change * torch.tensor([SIGN[each] for each in self.chosen.directions], dtype=torch.float64)
        attained, success = self.criterion.attained(wanted, kept), self.criterion.success(wanted, kept)
        return {**found, "attained": attained.tolist(), "success": success.double().tolist()}


def mean_of_models(seeds: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """The metrics of each model, averaged over the seeds that it was judged with."""
    return {
        metric: [sum(each) / len(seeds) for each in zip(*(found[metric] for found in seeds), strict=True)]
        for metric in seeds[0]
    }
