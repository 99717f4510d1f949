"""The filter at work: every stream reviewed, and how well malicious requests were told from benign ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from defenses.defense import Calibration, Context
from defenses.filters.influence import Influence
from defenses.filters.none import NoDefense
from experiments.choose import Chosen
from experiments.setup import Setup
from metrics.detection import Roc, auroc, benign_rejected, malicious_caught, roc_curve, tpr_at_fpr
from models.victim import Ensemble, Victim

ALWAYS = ("S1", "S8")  # reported beside whatever score decides (reporting protocol)


class Review:
    """The filter's work on one stream after the other, so that of the models after them only one is needed at a time.

    Its methods but the last are what a judge shows models to. Those after the calibration batches come first, and are
    kept; the threshold is calibrated once.
    """

    def __init__(
        self, setup: Setup, victim: Victim, calibration: Sequence[Tensor], mixed: Sequence[tuple[Tensor, Tensor]],
        benign: Sequence[Tensor],
    ) -> None:  # fmt: skip
        self.setup, self.victim = setup, victim
        self.batches, self.streams, self.alone = calibration, mixed, benign
        self.calibration: list[Calibration] = []
        self.threshold: float | None = None
        self.scores: dict[str, list[Tensor]] = {name: [] for name in scorers(setup)}
        self.flagged: list[Tensor] = []
        self.rejected: list[float] = []

    def calibrate(self, models: Ensemble, which: slice, predictions: Tensor) -> None:
        """Keep the models after some of the calibration batches."""
        for k, batch in enumerate(self.batches[which]):
            self.calibration.append(Calibration(batch, models[k].clone()))

    def _context(self, candidate: Victim) -> tuple[Context, float]:
        setup = self.setup
        context = Context(setup.task, self.victim, candidate, setup.data.filter_trusted, self.calibration)
        if self.threshold is None:
            self.threshold = setup.defense.threshold(context)
        return context, self.threshold

    def mixed(self, models: Ensemble, which: slice, predictions: Tensor) -> None:
        """Score some of the mixed streams, after which the victim is one of the `models`."""
        for k, (stream, _) in enumerate(self.streams[which]):
            context, threshold = self._context(models[k])
            for name, scorer in scorers(self.setup).items():
                self.scores[name].append(scorer.scores(context, stream))
            self.flagged.append(self.scores["decision"][-1] > threshold)

    def benign(self, models: Ensemble, which: slice, predictions: Tensor) -> None:
        """Score some of the benign batches."""
        for k, batch in enumerate(self.alone[which]):
            context, threshold = self._context(models[k])
            self.rejected.append(float((self.setup.defense.scores(context, batch) > threshold).double().mean()))

    def report(self, chosen: Chosen) -> dict[str, Any]:
        """The metrics, and the accepted positions per stream under `accepted`."""
        pairs = list(zip(self.streams, self.flagged, strict=True))
        report: dict[str, Any] = {
            "accepted": [stream[~hit] for (stream, _), hit in pairs],
            "threshold": self.threshold, "defense": self.setup.defense.name,
            "quarantined": [stream[hit].tolist() for (stream, _), hit in pairs],
        }  # fmt: skip
        for direction in self.setup.settings.targets.directions:
            mine = [i for i, each in enumerate(chosen.aim_directions) if each == direction]
            report[direction] = measured(self.scores, self.flagged, [m for _, m in self.streams], mine)
        report["benign_only_rejected"] = self.rejected
        return report


def scorers(setup: Setup) -> dict[str, Any]:
    """The filter that decides, and the scores that are reported beside it."""
    if isinstance(setup.defense, NoDefense):
        return {"decision": setup.defense}
    return {"decision": setup.defense, **{name: Influence(score=name) for name in ALWAYS}}  # type: ignore[arg-type]


def measured(
    scores: dict[str, list[Tensor]], flagged: Sequence[Tensor], malicious: Sequence[Tensor], mine: Sequence[int]
) -> dict[str, Any] | None:
    """Detection over the streams `mine`, pooled; None without malicious requests in them."""
    truth = torch.cat([malicious[i] for i in mine]).cpu()
    if not truth.any() or truth.all():
        return None
    hits = torch.cat([flagged[i] for i in mine]).cpu()
    report: dict[str, Any] = {
        "caught": malicious_caught(hits, truth).as_dict(),
        "benign_rejected": benign_rejected(hits, truth).as_dict(),
    }
    for name, values in scores.items():
        pooled = torch.cat([values[i] for i in mine]).double().cpu()
        report[name] = {
            "auroc": auroc(pooled, truth).as_dict(),
            "tpr_at_1": tpr_at_fpr(pooled, truth, 0.01).as_dict(),
            "tpr_at_5": tpr_at_fpr(pooled, truth, 0.05).as_dict(),
        }
        if name == "decision":
            report["roc"] = corners(roc_curve(pooled, truth))
    return report


def corners(curve: Roc) -> dict[str, list[float]]:
    """A ROC curve without the points that lie between two others on a horizontal or vertical line: the same steps."""
    fpr, tpr = curve.false_positive.tolist(), curve.true_positive.tolist()
    inner = range(1, len(fpr) - 1)
    straight = {i for i in inner if fpr[i - 1] == fpr[i] == fpr[i + 1] or tpr[i - 1] == tpr[i] == tpr[i + 1]}
    keep = [i for i in range(len(fpr)) if i not in straight]
    return {"fpr": [fpr[i] for i in keep], "tpr": [tpr[i] for i in keep]}
