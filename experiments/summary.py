"""From the records of games to the numbers of a table: means with 95% intervals over targets and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from experiments.row import LEAST
from metrics.attack_success import moved
from metrics.intervals import Interval, mean_interval, paired_difference

PER_TARGET = ("confidence", "entropy", "kept")
STATES = ("before", "after", "defended", "processed", "stream", "random", "benign")
SHARED = ("before", "benign", "nothing")  # states whose models belong to all requests; else each has its own
FRESH = ("nothing", "after", "defended", "random")

Record = Mapping[str, Any]


def summarise(records: Sequence[Record], directions: Sequence[str]) -> dict[str, Any]:
    """Everything the table shows, per direction; all targets of all games (seeds) are pooled.

    The intervals are Student-t over the pooled target-seed pairs; those of model-level metrics over the requests.
    `effect` is the mean paired difference, over targets, of the confidence after the attack and after a random request
    of the same size: the change caused by what was requested rather than by how much.
    """
    return {direction: _direction(records, direction) for direction in directions}


def score(summary: Mapping[str, Any]) -> float:
    """Mean over directions of the effect with the victim's own seed, positive where it is what the attacker wanted."""
    signed = [part["effect"]["victim_seed"]["mean"] * (1 if d == "over" else -1) for d, part in summary.items()]
    return sum(signed) / len(signed)


def _direction(records: Sequence[Record], direction: str) -> dict[str, Any]:
    own = {
        name: _pooled(records, direction, lambda r, name=name: r["victim_seed"][name], name in SHARED)
        for name in STATES
    }
    part: dict[str, Any] = {
        "targets": len(own["before"]["confidence"]),
        "requested": _interval(torch.tensor([float(len(q["indices"])) for q in _requests(records, direction)])),
        "victim_seed": {name: _measured(values) for name, values in own.items()},
        "effect": {"victim_seed": _difference(own["after"], own["random"])},
        "effect_defended": {"victim_seed": _difference(own["defended"], own["random"])},
        "detection": [record["detection"][direction] for record in records],
    }
    for name in ("after", "defended", "random"):
        part["victim_seed"][name]["success"] = _success(own["before"], own[name], direction)
    part["fresh_seeds"] = None
    if all(record["fresh_seeds"] is not None for record in records):
        fresh = {
            name: _pooled(records, direction, lambda r, name=name: _mean_over_seeds(r, name), name in SHARED)
            for name in FRESH
        }
        part["fresh_seeds"] = {name: _measured(values) for name, values in fresh.items()}
        part["effect"]["fresh_seeds"] = _difference(fresh["after"], fresh["random"])
        part["effect_defended"]["fresh_seeds"] = _difference(fresh["defended"], fresh["random"])
        floor = _pooled(records, direction, _noise)
        part["noise_floor"] = {name: _interval(floor[name]) for name in ("confidence", "kept")}
    return part


def _requests(records: Sequence[Record], direction: str) -> list[Mapping[str, Any]]:
    return [q for record in records for q in record["requests"] if q["direction"] == direction]


def _pooled(records: Sequence[Record], direction: str, state_of: Any, shared: bool = False) -> dict[str, Tensor]:
    """Per-target values (T,) and per-model metrics of the models of `direction` (or all, if shared), over all games."""
    found: dict[str, list[float]] = {}
    for record in records:
        state = state_of(record)
        mine = [i for i, each in enumerate(record["targets"]["direction"]) if each == direction]
        for name in PER_TARGET:
            found.setdefault(name, []).extend(state[name][i] for i in mine)
        aims = sorted({record["targets"]["aim"][i] for i in mine})
        for name, values in state.get("models", {}).items():
            used = values if shared else [values[i] for i in aims]
            found.setdefault(name, []).extend(float(value) for value in used)
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items() if values}


def _mean_over_seeds(record: Record, name: str) -> dict[str, Any]:
    """One state judged with fresh seeds, averaged over them, target by target and model by model."""
    states = record["fresh_seeds"][name]
    mean: dict[str, Any] = {k: torch.tensor([s[k] for s in states]).mean(0).tolist() for k in PER_TARGET}
    mean["models"] = record["fresh_seeds"]["models"][name]
    return mean


def _noise(record: Record) -> dict[str, Any]:
    """Deleting nothing with fresh seeds: mean absolute change of each target's confidence, and the share kept."""
    before = torch.tensor(record["victim_seed"]["before"]["confidence"])
    states = record["fresh_seeds"]["nothing"]
    change = torch.stack([(torch.tensor(s["confidence"]) - before).abs() for s in states]).mean(0)
    kept = torch.tensor([s["kept"] for s in states]).mean(0)
    return {"confidence": change.tolist(), "entropy": [0.0] * len(change), "kept": kept.tolist()}


def _measured(values: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: _interval(tensor) for name, tensor in values.items()}


def _interval(values: Tensor) -> dict[str, Any]:
    finite = values[torch.isfinite(values)]  # an AUROC is undefined when every prediction is right
    if len(finite) == 0:
        return asdict(Interval(float("nan"), float("nan"), float("nan"), 0, "no defined value"))
    return asdict(mean_interval(finite))


def _difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Any]:
    return asdict(paired_difference(first["confidence"], second["confidence"]))


def _success(before: Mapping[str, Tensor], after: Mapping[str, Tensor], direction: str) -> dict[str, Any]:
    """Share of targets whose confidence moved by at least 0.2 as wanted and whose label was kept."""
    kept = after["kept"].round().long()
    wanted = "over" if direction == "over" else "under"
    found = moved(before["confidence"], after["confidence"], torch.ones_like(kept), kept, wanted, LEAST)  # type: ignore[arg-type]
    return {"mean": found.value, "low": found.settings["low"], "high": found.settings["high"], "n": found.n}
