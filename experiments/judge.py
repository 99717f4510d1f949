"""What a set of deletions did: predictions of the unlearned models, and the measurements taken on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.examples import Data
from metrics.classification import accuracy
from metrics.conformal import coverage, mean_set_size, prediction_sets, quantile, scores
from metrics.uncertainty import adaptive_ece, auroc_of_confidence, brier, confidence, ece, entropy, nll, reliability
from models.victim import Ensemble, Victim, concatenate
from unlearning.procedure import Procedure, Task

ALPHA = 0.1  # miscoverage of the conformal sets that are reported
ROWS = 256  # models whose predictions on the whole test set are held at once


@dataclass(frozen=True, eq=False)
class Judge:
    """Runs the deployed procedure on rounded requests and measures; independent of what an attack claims."""

    task: Task
    procedure: Procedure
    data: Data

    def unlearn(self, victims: Sequence[Victim], seeds: Sequence[int], deleted: Tensor) -> list[Ensemble]:
        """The models after every row of `deleted` (m, n), one ensemble per victim; rows of zeros leave the victim."""
        empty = ~deleted.any(dim=1)
        results = []
        for victim, seed in zip(victims, seeds, strict=True):
            same = victim.copies(int(empty.sum()))
            if empty.all():
                results.append(same)
                continue
            changed = self.procedure.forget(self.task, victim, deleted[~empty], seed)
            joined = concatenate([changed, same]) if empty.any() else changed
            order = torch.cat([(~empty).nonzero()[:, 0], empty.nonzero()[:, 0]]).argsort()
            results.append(joined.select(order))
        return results

    def predict(self, models: Sequence[Ensemble]) -> Tensor:
        """Mean probabilities (m, n_test + n_conformal, K) on the test and conformal calibration examples."""
        inputs = torch.cat([self.data.test.x, self.data.conformal_trusted.x])
        return torch.stack([each.probabilities(inputs) for each in models]).mean(0)

    def model_level(self, probabilities: Tensor) -> dict[str, float]:
        """Metrics of one model on the test set, from its probabilities on test and conformal examples."""
        n = len(self.data.test)
        p, y, calibration = probabilities[:n], self.data.test.y, probabilities[n:]
        threshold = quantile(scores(calibration, self.data.conformal_trusted.y), ALPHA)
        sets = prediction_sets(p, threshold)
        measured = {
            "accuracy": accuracy(p, y), "ece": ece(p, y), "adaptive_ece": adaptive_ece(p, y), "brier": brier(p, y),
            "nll": nll(p, y), "auroc_of_confidence": auroc_of_confidence(p, y), "conformal_coverage": coverage(sets, y),
            "conformal_set_size": mean_set_size(sets),
        }  # fmt: skip
        return {
            **{name: each.value for name, each in measured.items()},
            "mean_confidence": float(confidence(p).mean()),
            "mean_entropy": float(entropy(p).mean()),
        }

    def model_levels(self, probabilities: Tensor) -> dict[str, list[float]]:
        """The metrics of several models (m, n_test + n_conformal, K): for each metric its m values."""
        each = [self.model_level(p) for p in probabilities]
        return {name: [metrics[name] for metrics in each] for name in each[0]} if each else {}

    def reliability(self, probabilities: Sequence[Tensor]) -> dict[str, Any]:
        """The reliability diagram of one or more models on the test set, their predictions taken together."""
        n = len(self.data.test)
        together = torch.cat([p[:n] for p in probabilities])
        found = reliability(together, self.data.test.y.repeat(len(probabilities)))
        return {name: getattr(found, name).tolist() for name in ("edges", "accuracy", "confidence", "count")}


def on_targets(probabilities: Tensor, positions: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Of each target t, under its own model t: probability of its label, entropy in nats, label kept; p (T, n, K)."""
    rows = torch.arange(len(positions), device=probabilities.device)
    p = probabilities[rows, positions]
    return {
        "confidence": p[rows, labels].tolist(),
        "entropy": entropy(p).tolist(),
        "kept": (p.argmax(-1) == labels).double().tolist(),
    }


def averaged_on_targets(probabilities: Tensor, positions: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """The same for every target under all models (m, n, K), averaged over the models."""
    rows = [on_targets(p.expand(len(positions), *p.shape), positions, labels) for p in probabilities]
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64).mean(0).tolist() for name in rows[0]}
