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
from models.victim import Victim

ALWAYS = ("S1", "S8")  # reported beside whatever score decides (reporting protocol)


def review_streams(
    setup: Setup, victim: Victim, mixed: Sequence[tuple[Tensor, Tensor]], benign: Sequence[Tensor],
    candidates: Sequence[Victim], calibration: Sequence[Calibration], chosen: Chosen,
) -> dict[str, Any]:  # fmt: skip
    """Review every mixed stream and every benign batch; `candidates` are the victim after each of them.

    The threshold is calibrated once. Returns the accepted positions per stream, under `accepted`, and the metrics.
    """
    trusted = setup.data.filter_trusted
    contexts = [Context(setup.task, victim, each, trusted, calibration) for each in candidates]
    threshold = setup.defense.threshold(contexts[0])
    accepted, flagged, scores = [], [], {name: [] for name in scorers(setup)}  # type: ignore[var-annotated]
    for (stream, _), context in zip(mixed, contexts, strict=False):
        for name, scorer in scorers(setup).items():
            scores[name].append(scorer.scores(context, stream))
        decided = scores["decision"][-1] > threshold
        flagged.append(decided)
        accepted.append(stream[~decided])
    report: dict[str, Any] = {"accepted": accepted, "threshold": threshold, "defense": setup.defense.name}
    report["quarantined"] = [stream[hit].tolist() for (stream, _), hit in zip(mixed, flagged, strict=True)]
    for direction in setup.settings.targets.directions:
        mine = [i for i, each in enumerate(chosen.aim_directions) if each == direction]
        report[direction] = measured(scores, flagged, [m for _, m in mixed], mine)
    rejected = [
        float((setup.defense.scores(context, batch) > threshold).double().mean())
        for batch, context in zip(benign, contexts[len(mixed) :], strict=True)
    ]
    report["benign_only_rejected"] = rejected
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
