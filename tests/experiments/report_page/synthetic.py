"""Made-up games with plausible numbers: a frame as `experiments.listing.results` gives, and the record of one game."""

from __future__ import annotations

import hashlib
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from attacks.crafting.criterion import ConfidenceMoved, described
from experiments.listing.row import TRIALS
from games.request.quantities import STATES

DATA = ("digits", "mnist")
ATTACKS = (("uncertainty", "white_box"), ("uncertainty", "black_box"), ("random", None))
PROCEDURES = ("retrain", "second_order", "first_order")
DEFENSES = (("none", None), ("influence", "S1"))
STRENGTH = {"white_box": 0.28, "black_box": 0.12, None: 0.0}


def config(
    data: str, attack: str, access: str | None, procedure: str, defense: str, score: str | None
) -> dict[str, Any]:
    """A resolved configuration with few keys, as nested as a real one."""
    attacks: dict[str, Any] = {"_target_": f"attacks.requester.{attack}.X", "budget": 20, "pool": None}
    if access is not None:
        attacks |= {"access": access, "norm_cap": None}
    defenses: dict[str, Any] = {"_target_": f"defenses.filters.{defense}.X"}
    if score is not None:
        defenses |= {"score": score, "rate": 0.05}
    return {
        "data": {"_target_": f"data.{data}.X"}, "model": {"_target_": "models.mlp.MLP", "widths": "[32]"},
        "training": {"_target_": "models.training.Training", "epochs": 20},
        "unlearning": {"_target_": f"unlearning.{procedure}.X"}, "attack": attacks, "defense": defenses,
        "game": {"_target_": "games.request.game.RequestGame", "fresh_seeds": 3,
                 "targets": {"mode": "single", "direction": "both", "count": 12, "over": "[0.45, 0.65]"}},
        "seed": 0,
    }  # fmt: skip


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def success(change: float, rng: np.random.Generator) -> float:
    """The share of 12 targets that moved, the larger the change the more."""
    return float(rng.binomial(12, min(1.0, 3 * abs(change)))) / 12


def rows(
    settings: tuple[str, str, str | None, str, str, str | None], seed: int, rng: np.random.Generator
) -> list[dict]:
    """One row per part of one game."""
    data, attack, access, procedure, defense, score = settings
    resolved = config(*settings)
    digest = hashlib.sha256(repr((settings, seed)).encode()).hexdigest()
    common = {
        **{key: value for key, value in flat(resolved).items() if "." in key},
        "digest": digest, "path": f"store/game/{digest[:2]}/{digest}.json",
        "created": f"2026-01-{1 + seed % 28:02d}T10:00:00+00:00", "toolkit": "0.1.0", "data": data, "model": "mlp",
        "training": "sgd", "unlearning": procedure, "attack": attack, "defense": defense, "seed": seed,
        "game": "request", "targets": 12, "requests": 12, "goal": ConfidenceMoved().goal,
    }  # fmt: skip
    made = []
    for direction, sign in (("over", 1), ("under", -1)):
        before = 0.56 if direction == "over" else 0.86
        weaker = {"retrain": 1.0, "second_order": 1.3, "first_order": 0.5}[procedure]
        gain = sign * (STRENGTH[access] * weaker + rng.normal(0, 0.03))
        kept_gain = gain * (0.45 if score else 1.0) + rng.normal(0, 0.01)
        confidence = dict.fromkeys(STATES, before) | {
            "after": before + gain, "defended": before + kept_gain, "stream": before + gain,
            "random": before + rng.normal(0, 0.01),
        }  # fmt: skip
        auroc = float(np.clip(rng.normal(0.85, 0.05), 0, 1)) if score else None
        made.append(
            {
                **common, "part": direction, "heading": f"{direction.capitalize()}-confidence",
                **{f"confidence_{s}": confidence[s] for s in STATES},
                **{f"kept_{s}": 1.0 - float(rng.integers(2)) / 12 for s in STATES},
                **{f"accuracy_{s}": 0.93 + 0.01 * rng.random() for s in STATES},
                **{f"success_{s}": success(confidence[s] - before, rng) for s in ("after", "defended", "random")},
                "success_defended_random": 0.0, f"success_defended_random{TRIALS}": 12,
                "success_split": success(confidence["after"] - before, rng) if score else None,
                f"success_split{TRIALS}": 12 if score else None, "auroc_split": auroc and 0.9 * auroc,
                **{f"{metric}_{s}{TRIALS}": 12 for metric in ("success", "kept") for s in ("after", "defended")},
                "effect": sign * (confidence["after"] - confidence["random"]),
                "effect_defended": sign * (confidence["defended"] - confidence["random"]),
                "auroc": auroc, "tpr_at_5": auroc and auroc**3, "requested": 20.0, "memory_mb": 300.0,
                "queries": 1000 if access == "black_box" else 0, "predictions": 1000, "operator_calls": 40,
                "seconds": 9.0 + rng.random(),
            }
        )  # fmt: skip
    return made


def repeated(games: pd.DataFrame, times: int) -> pd.DataFrame:
    """The same games so many times, each with other seeds and another digest: thousands are not made one by one."""
    seeds = games["seed"].nunique()
    each = [games.assign(digest=games["digest"] + str(k), seed=games["seed"] + seeds * k) for k in range(times)]
    return pd.concat(each, ignore_index=True)


def frame(seeds: int = 5, rng_seed: int = 0) -> pd.DataFrame:
    """The games of 2 data sets x 3 attacks x 3 procedures x 2 defenses with `seeds` seeds, one row per part."""
    rng = np.random.default_rng(rng_seed)
    every = [
        (d, a, access, p, f, score) for d, (a, access), p, (f, score) in product(DATA, ATTACKS, PROCEDURES, DEFENSES)
    ]
    return pd.DataFrame([row for settings in every for seed in range(seeds) for row in rows(settings, seed, rng)])


def record(seed: int = 0) -> dict[str, Any]:
    """The record of one game: what the figures need of it."""
    rng = np.random.default_rng(seed)
    directions = ["over"] * 6 + ["under"] * 6
    sign = np.array([1.0] * 6 + [-1.0] * 6)
    before = np.where(sign > 0, 0.56, 0.86) + rng.normal(0, 0.03, 12)
    confidence = dict.fromkeys(STATES, before) | {
        "after": before + 0.25 * sign, "random": before + rng.normal(0, 0.01, 12),
        "defended": before + 0.1 * sign + rng.normal(0, 0.02, 12),
    }  # fmt: skip
    states = {name: _state(c, sign * (c - before)) for name, c in confidence.items()}
    centres = (np.arange(15) + 0.5) / 15
    diagram = {
        "edges": np.linspace(0, 1, 16).tolist(), "confidence": centres.tolist(), "count": [20] * 15,
        "accuracy": np.clip(centres + rng.normal(0, 0.05, 15), 0, 1).tolist(),
    }  # fmt: skip
    fpr = np.linspace(0, 1, 20)
    rate = {"value": 0.86, "n": 48, "settings": {"low": 0.8, "high": 0.9}}
    found = {
        "decision": dict.fromkeys(("auroc", "tpr_at_1", "tpr_at_5"), rate),
        "caught": rate, "caught_random": rate, "benign_rejected": rate,
        **dict.fromkeys(("streams", "malicious", "malicious_distinct", "benign", "benign_distinct"), 12),
        "roc": {"fpr": fpr.tolist(), "tpr": (fpr**0.3).tolist()},
    }  # fmt: skip
    requests = [{"indices": [1, 2], "direction": direction} for direction in directions]
    return {
        "schema": 4, "game": "request", "seed": seed,
        "criterion": described(ConfidenceMoved()), "requests": requests, "fresh_seeds": None,
        "config": {"game": {"targets": {"mode": "single"}}},
        "targets": {"direction": directions, "aim": list(range(12)), "position": list(range(12)), "test": 400},
        "victim_seed": {**states, "reliability": dict.fromkeys(("before", "over", "under"), diagram)},
        "detection": {
            "defense": "influence", "over": found, "under": found, "benign_size": 80,
            "benign_rejected": {"uniform": [0.05, 0.1]},
        },
    }  # fmt: skip


def _state(confidence: np.ndarray, attained: np.ndarray) -> dict[str, Any]:
    return {
        "confidence": confidence.tolist(), "entropy": (2 * (1 - confidence)).tolist(), "kept": [1.0] * 12,
        "attained": attained.tolist(), "success": (attained >= 0.2).astype(float).tolist(),
        "models": {"accuracy": [0.9] * 12},
    }  # fmt: skip


def table(name: str = "uncertainty") -> dict[str, Any]:
    """A `table.json` with one claim of every verdict, and numbers that may be missing."""
    claims = [
        ("white-over", "The white-box attack raises confidence more than random requests of the same size.",
         "holds", 0.283, 0.25, 0.31, 0.0004),
        ("black-over", "The black-box attack raises confidence more than one-shot influence.",
         "not decided", 0.021, -0.02, 0.06, 0.31),
        ("filter", "The filter S1 at a 5% false-positive rate leaves no effect.",
         "does not hold", 0.11, 0.08, 0.14, 1.0),
    ]  # fmt: skip
    return {
        "name": name, "title": "Uncertainty attacks (digits)", "size": "quick", "date": "2026-01-05",
        "command": f"python experiments/tables.py table={name} size=quick",
        "claims": [
            {"id": key, "text": text, "verdict": verdict, "effect": effect, "low": low, "high": high, "p": p,
             "p_adjusted": min(1.0, 3 * p), "n": 60, "unit": "confidence", "test": "paired bootstrap"}
            for key, text, verdict, effect, low, high, p in claims
        ],
        "markdown": "| attack | over | under |\n|---|---:|---:|\n| white-box | 0.28 ± 0.03 | -0.31 ± 0.04 |\n"
        "| random | 0.00 ± 0.01 | 0.00 ± 0.01 |\n",
    }  # fmt: skip


def with_long_names() -> pd.DataFrame:
    """Games whose attacks and procedures differ in settings, one of them a number that not every attack has."""
    made = frame(seeds=2)
    made["attack.queries"] = made["attack.access"].map({"white_box": 1000.0, "black_box": 20.0})
    made["unlearning.solver.layers"] = made["data"].map({"digits": "all", "mnist": "last"})
    return made
