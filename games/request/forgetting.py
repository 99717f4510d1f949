"""How well the deployed procedure forgot: accuracies, the distance to retraining, certificates, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import nan
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from metrics.classification import accuracy
from metrics.forgetting import disagreement, relative_distance, total_variation
from models.training import train
from models.victim import ModelStack, Victim
from unlearning.certification.certificate import Certifying
from unlearning.procedure import Procedure, Task, unlearned
from unlearning.retrain import Retrain

Lists = dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Forgetting:
    """Measures models that forgot, against plain retraining with the same seed; `test` (n, ...) are test inputs.

    Without `compared` nothing is retrained, and what needs it is left out. `oracles` gives retrained models for rows of
    deletion weights, as `retrain` does, where they may have been kept.
    """

    task: Task
    procedure: Procedure
    victim: Victim
    seed: int
    test: Tensor
    compared: bool = True
    oracles: Callable[[Tensor], ModelStack] | None = None

    def measure(self, models: ModelStack, deleted: Tensor, on_test: Tensor | None = None) -> Lists:
        """For each model and row of `deleted` (m, n), a number per metric; NaN where it is not defined.

        `accuracy_deleted`, `accuracy_retained` (training records); `distance` ||theta_u - theta_r|| and
        `relative_distance`, the same over that of the victim; `prediction_distance` (mean total variation on the test
        inputs; `on_test` (m, n, K) are the models' predictions, where they are known) and `disagreement`. Parameters of
        another architecture than the task's have no distance. Where the procedure gives certificates: `certified` (1 or
        0), `certificate_bound`, `certificate_epsilon`.
        """
        found: Lists = {}
        for row, gone in enumerate(self.task.total(deleted) > 0):
            for name, value in (self._accuracies(models[row], gone) | self._certificate(models[row])).items():
                found.setdefault(name, []).append(value)
        return found | self._distances(models, deleted, on_test) if self.compared else found

    def _distances(self, models: ModelStack, deleted: Tensor, on_test: Tensor | None) -> Lists:
        reference = models if isinstance(self.procedure, Retrain) else self.retrained(deleted)
        same = models[0].flat().shape == reference[0].flat().shape
        on_test = models.probabilities(self.test) if on_test is None else on_test
        on_test_retrained = on_test if reference is models else reference.probabilities(self.test)
        found: Lists = {"prediction_distance": [], "disagreement": [], "distance": [], "relative_distance": []}
        for row in range(len(deleted)):
            found["prediction_distance"].append(total_variation(on_test[row], on_test_retrained[row]).value)
            found["disagreement"].append(disagreement(on_test[row], on_test_retrained[row]).value)
            own, exact = models[row].flat(), reference[row].flat()
            found["distance"].append(float((own - exact).norm()) if same else nan)
            relative = relative_distance(own, exact, self.victim.flat()).value if same else nan
            found["relative_distance"].append(relative)
        return found

    def _accuracies(self, model: Victim, gone: Tensor) -> dict[str, float]:
        p, y = model.probabilities(self.task.records.x), self.task.records.y
        return {
            name: accuracy(p[rows], y[rows]).value if rows.any() else nan
            for name, rows in (("accuracy_deleted", gone), ("accuracy_retained", ~gone))
        }

    def _certificate(self, model: Victim) -> dict[str, float]:
        if not isinstance(self.procedure, Certifying):
            return {}
        found = self.procedure.certificate(self.task, model)
        return {
            "certified": float(found.verdict != "uncertified"), "certificate_bound": found.sensitivity,
            "certificate_epsilon": found.implied_epsilon,
        }  # fmt: skip

    def certificate(self, deleted: Tensor) -> dict[str, Any] | None:
        """The certificate after forgetting `deleted` (1, n), with a line that says it; None where there is none."""
        if not isinstance(self.procedure, Certifying):
            return None
        model = unlearned(self.procedure, self.task, self.victim, deleted, self.seed)[0]
        found = self.procedure.certificate(self.task, model)
        return {**found.as_dict(), "line": found.describe()}

    def retrained(self, deleted: Tensor) -> ModelStack:
        """Plain retraining from scratch for every row of `deleted`, with the victim's seed: common random numbers."""
        return self.retrain(deleted) if self.oracles is None else self.oracles(deleted)

    def retrain(self, deleted: Tensor) -> ModelStack:
        """As `retrained`, done here and now."""
        task, seeds = self.task, [self.seed] * len(deleted)
        return train(task.build, task.records, task.training, seeds, task.total(deleted), label="retraining to compare")

    def seconds(self, deleted: Tensor) -> dict[str, float]:
        """Wall-clock seconds of forgetting one request, `deleted` (1, n), and of retraining without it if compared.

        By a provider who has prepared nothing: what procedures keep for a victim, they keep for that very object.
        """
        victim = replace(self.victim)
        found = {"forget_one": _timed(lambda: unlearned(self.procedure, self.task, victim, deleted, self.seed))}
        return found | {"retrain_one": _timed(lambda: self.retrain(deleted))} if self.compared else found

    def in_sequence(self, request: Sequence[int]) -> dict[str, float]:
        """The relative distance to retraining when the two halves of one request are forgotten one after the other.

        Empty without `compared`; NaN where parameters cannot be compared, or for a request of fewer than two records.
        """
        if not self.compared:
            return {}
        return {"relative_distance": self._in_two_halves(request) if len(request) > 1 else nan}

    def _in_two_halves(self, request: Sequence[int]) -> float:
        task, victim, half = self.task, self.victim, len(request) // 2
        rows = [self._row(part) for part in (request[:half], request[half:])]
        for row in rows:
            victim = unlearned(self.procedure, task, victim, row, self.seed)[0]
            task = Task(task.records, task.build, task.training, task.total(row)[0])
        exact = self.retrained(torch.maximum(*rows))[0].flat()
        if exact.shape != victim.flat().shape:
            return nan
        return relative_distance(victim.flat(), exact, self.victim.flat()).value

    def _row(self, positions: Sequence[int]) -> Tensor:
        row = self.task.records.x.new_zeros(1, len(self.task.records))
        row[0, list(positions)] = 1
        return row


def _timed(run: Callable[[], ModelStack]) -> float:
    began = perf_counter()
    float(run().flat()[0, 0])  # a GPU has not finished before a number is read
    return perf_counter() - began
