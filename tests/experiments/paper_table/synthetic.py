"""Records of games that were never played, with numbers that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from attacks.crafting.criterion import ConfidenceMoved, LabelFlipped, described
from data.randomness import generator
from games.request.quantities import FRESH, OF_FORGETTING, OF_MODELS, STATES, Quantity

SEQUENCES = ("caught", "caught_random", "auroc")
SCORES = {"auroc": 0.9, "tpr_at_1": 0.2, "tpr_at_5": 0.5}


def record(
    after: Sequence[float], *, before: float = 0.5, direction: str = "over", mode: str = "single",
    kept: Sequence[float] | None = None, random: Sequence[float] | None = None, attack: str = "uncertainty",
    models: Mapping[str, Sequence[float]] | None = None, fresh: bool = True, defense: str = "influence", seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """A game of one direction whose targets, at the test positions 10, 11, ..., end with the confidences `after`.

    `models` gives the metric `ece` of single states; every other metric of a model is 0.1 before, 0.2 after.
    """
    count = len(after)
    requests = count if mode == "single" else 1
    criterion = LabelFlipped() if attack == "misclassification" else ConfidenceMoved()
    sign = 1 if direction == "over" else -1

    def state_of(confidence: Sequence[float], kept: Sequence[float] | None = None) -> dict[str, Any]:
        found = target_state(confidence, kept)
        change = sign * (torch.tensor(found["confidence"], dtype=torch.float64) - before)
        same = torch.tensor(found["kept"], dtype=torch.float64)
        success = criterion.success(change, same).double()
        return {**found, "attained": criterion.attained(change, same).tolist(), "success": success.tolist()}

    states = {state: state_of([before] * count) for state in STATES}
    states["after"] = state_of(after, kept)
    states["random"] = state_of(random or [before] * count)
    for state, found in states.items():
        size = 1 if state == "before" else 3 if state == "benign" else requests
        value = 0.1 if state == "before" else 0.2
        found["models"] = {metric: [value] * size for metric in names(OF_MODELS)}
        if state in ("after", "random"):
            found["models"] |= {metric: [0.3] * size for metric in names(OF_FORGETTING)}
        if models and state in models:
            found["models"]["ece"] = list(models[state])
    seen = {
        "caught": {"value": 0.6}, "benign_rejected": {"value": 0.05},
        "decision": {name: {"value": value} for name, value in SCORES.items()},
        "S1": {"auroc": {"value": 0.8}}, "S8": {"auroc": {"value": "nan"}},
    }  # fmt: skip
    split = None
    if defense != "none":
        split = {"parts": 3, "attack": states["after"], "random": states["random"], direction: seen}
    apart = {name: {"value": 0.7, "n": 3, "settings": {"low": 0.1, "high": 0.9}} for name in SEQUENCES}
    told = {"parts": 3, "benign": {"uniform": [0.0, 1.0], "outlier": [1.0, 1.0]}, direction: {"streams": 3, **apart}}
    return {
        "seed": seed, "criterion": described(criterion),
        "game": "request", "memory_mb": {"peak": 300.0},
        "config": {"game": {"targets": {"mode": mode}}, "attack": {"_target_": f"attacks.requester.{attack}.Attack"}},
        "targets": {
            "position": list(range(10, 10 + count)), "label": [0] * count, "truth": [0] * count,
            "trusted_distance": [2.0] * count, "trusted_distance_usual": 1.5,
            "direction": [direction] * count, "aim": list(range(count)) if mode == "single" else [0] * count,
        },
        "requests": [{"indices": [1, 2, 3], "direction": direction}] * requests,
        "victim_seed": states,
        "fresh_seeds": {name: [states["after" if name == "after" else "before"]] * 2 for name in
                        FRESH} if fresh else None,
        "detection": {"defense": defense, direction: seen, "split": split, "sequences": told,
                      "benign_rejected": {"uniform": [0.04, 0.06], "outlier": [0.2, 0.4]}},
        "records": 300, "queries": 30, "predictions": 2, "operator_calls": 40,
        "seconds": {"victim": 1.0, "attack": 2.0, "judgement": 3.0, "forget_one": 0.1, "retrain_one": 0.4},
        "in_sequence": {"relative_distance": 0.5},
    }  # fmt: skip


def names(quantities: Sequence[Quantity]) -> list[str]:
    return [quantity.name for quantity in quantities]


def target_state(confidence: Sequence[float], kept: Sequence[float] | None = None) -> dict[str, Any]:
    return {
        "confidence": list(confidence),
        "entropy": [1 - value for value in confidence],
        "kept": list(kept or [1.0] * len(confidence)),
    }


def clustered(seeds: int, targets: int, correlation: float, draw: torch.Generator, mean: float = 0.0) -> torch.Tensor:
    """Normal numbers (seeds, targets) of variance 1; those of one seed have the given correlation."""
    shared = torch.randn(seeds, 1, generator=draw, dtype=torch.float64) * correlation**0.5
    own = torch.randn(seeds, targets, generator=draw, dtype=torch.float64) * (1 - correlation) ** 0.5
    return mean + shared + own


def draws(*names: str | int) -> torch.Generator:
    return generator(0, "test", *names)
