"""From the records of games to the numbers of a table: means with 95% intervals over seeds, then targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from experiments.effects import FRESH, SHARED, STATES, effects, empty, fresh_effects, of_direction
from experiments.kinds import interval
from metrics.intervals import grouped_interval, rate_interval

Record = Mapping[str, Any]
Groups = list[list[float]]  # values by seed
PER_TARGET = ("confidence", "entropy", "kept", "attained", "success", "functional")
YES_OR_NO = ("kept", "success")


def summarise(records: Sequence[Record], directions: Sequence[str]) -> dict[str, Any]:
    """Everything the table shows, per direction.

    Intervals are over seeds, each of which counts with its mean, or with one seed over its requests (`metrics.intervals
    .grouped_interval`): targets of one request share a model, so they count as one value. Those of shares and AUROCs
    keep within [0, 1]. `effect` is the mean difference, over targets, of what was attained after the attack and after a
    random request of the same size; `effect_defended` the same where both went through the same filter in the same
    stream.
    """
    return {direction: _direction(records, direction) for direction in directions}


def score(summary: Mapping[str, Any]) -> float:
    """Mean over directions of the effect with the victim's own seed, positive where it is what the attacker wanted."""
    found = [part["effect"]["victim_seed"]["mean"] for part in summary.values()]
    return sum(found) / len(found)


def _direction(records: Sequence[Record], direction: str) -> dict[str, Any]:
    mine = [of_direction(record, direction) for record in records]
    own = {name: _measured(records, mine, name, lambda r, n: [r["victim_seed"][n]]) for name in STATES}
    for metric in YES_OR_NO:  # every label is its own, and nothing has moved yet
        own["before"][metric] |= {"low": float("nan"), "high": float("nan"), "method": "by definition"}
    if len(records) == 1:
        own["before"]["accuracy"] = _of_one_model(records[0])
    part: dict[str, Any] = {
        "targets": sum(map(len, mine)), "seeds": len(records),
        "requests": sum(len(_sizes(record, direction)) for record in records),
        "nothing_requested": sum(empty(record, i) for record, own in zip(records, mine, strict=True) for i in own),
        "requested": _interval([_sizes(record, direction) for record in records], "requested", "requests"),
        "victim_seed": own,
        "effect": {"victim_seed": _effect(records, mine, "after", effects)},
        "effect_defended": {"victim_seed": _effect(records, mine, "defended", effects)},
        "filter": _filter(records, direction),
        "fresh_seeds": None,
    }  # fmt: skip
    if all(record["fresh_seeds"] is not None for record in records):
        part["fresh_seeds"] = {name: _measured(records, mine, name, _fresh_states) for name in FRESH}
        part["effect"]["fresh_seeds"] = _effect(records, mine, "after", fresh_effects)
        part["effect_defended"]["fresh_seeds"] = _effect(records, mine, "defended", fresh_effects)
        part["noise_floor"] = _noise_floor(records, mine)
    return part


def _sizes(record: Record, direction: str) -> list[float]:
    return [float(len(request["indices"])) for request in record["requests"] if request["direction"] == direction]


def _fresh_states(record: Record, name: str) -> list[Mapping[str, Any]]:
    states = [dict(each) for each in record["fresh_seeds"][name]]
    return [{**each, "models": record["fresh_seeds"]["models"][name]} for each in states]


def _measured(
    records: Sequence[Record], mine: Sequence[Sequence[int]], name: str,
    states_of: Callable[[Record, str], Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:  # fmt: skip
    """Every metric of one state, with its interval; several states of a record (fresh seeds) are averaged first."""
    groups: dict[str, Groups] = {}
    for record, own in zip(records, mine, strict=True):
        states = states_of(record, name)
        for metric in (name for name in PER_TARGET if name in states[0]):
            values = [sum(float(state[metric][i]) for state in states) / len(states) for i in own]
            groups.setdefault(metric, []).append(values if name in SHARED else _by_request(record, own, values))
        aims = sorted({record["targets"]["aim"][i] for i in own})
        for metric, found in states[0].get("models", {}).items():
            used = found if name in SHARED else [found[aim] for aim in aims]
            groups.setdefault(metric, []).append([float(value) for value in used])
    units = "targets" if name in SHARED else "requests"
    return {metric: _interval(values, metric, units) for metric, values in groups.items()}


def _by_request(record: Record, mine: Sequence[int], values: Sequence[float]) -> list[float]:
    """The mean of the targets of each request: they share a model, and a control."""
    by_aim: dict[int, list[float]] = {}
    for i, value in zip(mine, values, strict=True):
        by_aim.setdefault(record["targets"]["aim"][i], []).append(value)
    return [sum(each) / len(each) for each in by_aim.values()]


def _effect(
    records: Sequence[Record], mine: Sequence[Sequence[int]], state: str,
    of: Callable[[Record, str, Sequence[int]], list[float]],
) -> dict[str, Any]:  # fmt: skip
    groups = [_by_request(r, own, of(r, state, own)) for r, own in zip(records, mine, strict=True)]
    return _interval(groups, "effect", "requests")


def _interval(groups: Sequence[Sequence[float]], metric: str, units: str) -> dict[str, Any]:
    return asdict(interval(groups, metric, units))


def _of_one_model(record: Record) -> dict[str, Any]:
    """The accuracy of the victim itself: over test examples, since there is only one model."""
    test = record["targets"]["test"]
    value = float(record["victim_seed"]["before"]["models"]["accuracy"][0])
    found = rate_interval(round(value * test), test)
    return {**asdict(found), "mean": value, "over": f"{test} test examples"}


def _noise_floor(records: Sequence[Record], mine: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Deleting nothing with fresh seeds: mean absolute change of each target's confidence, and the share kept."""
    change: Groups = []
    kept: Groups = []
    for record, own in zip(records, mine, strict=True):
        before = _exact(record["victim_seed"]["before"]["confidence"])
        states = record["fresh_seeds"]["nothing"]
        moved = torch.stack([(_exact(s["confidence"]) - before).abs() for s in states]).mean(0)
        same = torch.stack([_exact(s["kept"]) for s in states]).mean(0)
        change.append(_taken(moved, own))
        kept.append(_taken(same, own))
    return {
        "confidence": _interval(change, "confidence", "targets"), "kept": _interval(kept, "kept", "targets"),
    }  # fmt: skip


def _exact(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _taken(values: Tensor, rows: Sequence[int]) -> list[float]:
    return [float(values[i]) for i in rows]


def _filter(records: Sequence[Record], direction: str) -> dict[str, Any] | None:
    """What the filter did, over all seeds: rates and AUROCs with intervals, and what they were counted over."""
    found = [record["detection"] for record in records]
    if found[0]["defense"] == "none":
        return None
    seen = [each[direction] for each in found if each[direction] is not None]
    part: dict[str, Any] = {"benign_rejected_alone": {}}
    for kind in found[0]["benign_rejected"]:
        rates = [each["benign_rejected"][kind] for each in found]
        part["benign_rejected_alone"][kind] = _over_seeds(rates, "batches")
    if seen:
        paths: dict[str, tuple[str, ...]] = {name: ("decision", name) for name in ("auroc", "tpr_at_1", "tpr_at_5")}
        paths |= {name: (name,) for name in ("caught", "benign_rejected")}
        paths |= {f"auroc_{name}": (name, "auroc") for name in ("S1", "S8") if name in seen[0]}
        part |= {name: _detected(seen, path) for name, path in paths.items()}
        counts = ("streams", "malicious", "malicious_distinct", "benign", "benign_distinct")
        part["counts"] = {name: sum(each[name] for each in seen) for name in counts}
    return part


def _detected(seen: Sequence[Record], path: Sequence[str]) -> dict[str, Any]:
    """One seed: its own interval, over streams. Several: over seeds."""
    values = []
    for each in seen:
        node: Any = each
        for key in path:
            node = node[key]
        values.append(node)
    if len(values) == 1:
        bounds = values[0]["settings"]
        return {
            "mean": float(values[0]["value"]), "low": float(bounds["low"]), "high": float(bounds["high"]),
            "n": values[0]["n"], "over": f"{seen[0]['streams']} streams of one seed",
        }  # fmt: skip
    return _over_seeds([[float(value["value"])] for value in values], "streams")


def _over_seeds(groups: Sequence[Sequence[float]], units: str) -> dict[str, Any]:
    return asdict(grouped_interval([torch.tensor(list(g), dtype=torch.float64) for g in groups], "share", units=units))
