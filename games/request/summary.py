"""From the records of games to the numbers of a table: means with 95% intervals over seeds, then targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from games.request.direction import of_direction
from games.request.effects import effects, effects_by_fresh_seed, empty, split_effects
from games.request.quantities import BESIDE, FRESH, OF_TARGETS, QUANTITIES, SHARED, STATES
from metrics.clustered import clustered_rate
from metrics.intervals import crossed_interval, grouped_interval, interval_of_values, rate_interval
from metrics.wording import count

Record = Mapping[str, Any]
Runs = list[list[float]]  # values by run (a fresh seed, or the only run) of one seed
PER_TARGET = (*(each.name for each in OF_TARGETS), "functional")
YES_OR_NO = ("kept", "success")  # of every target


def summarise(records: Sequence[Record], directions: Sequence[str]) -> dict[str, Any]:
    """Everything the table shows, per direction.

    Intervals are over seeds, each of which counts with its mean, or with one seed over its requests (see
    `metrics.intervals.grouped_interval`), and where fresh seeds judged them over these too (`crossed_interval`):
    targets of one request share a model, so they count as one value. Those of shares and AUROCs keep within [0, 1].
    `effect` is the mean difference, over targets, of what was attained after the attack and after a random request of
    the same size; `effect_defended` the same where both went through the same filter in the same stream.
    """
    return {direction: _direction(records, direction) for direction in directions}


def summarise_once(records: Sequence[Record], directions: Sequence[str]) -> dict[str, Any]:
    """`summarise`, kept for the records last asked for: table, figures and score want it of the same ones."""
    if [*map(id, records)] != [*map(id, _last.records)] or _last.directions != tuple(directions):
        _last.summary = summarise(records, directions)
        _last.records, _last.directions = tuple(records), tuple(directions)
    return _last.summary


class _Last:
    records: tuple[Record, ...] = ()
    directions: tuple[str, ...] = ()
    summary: dict[str, Any]


_last = _Last()


def _direction(records: Sequence[Record], direction: str) -> dict[str, Any]:
    mine = [of_direction(record, direction) for record in records]
    own = {name: _measured(records, mine, name, lambda r, n: [r["victim_seed"][n]]) for name in STATES}
    handed_in = any(record.get("handed_in") for record in records)  # labels are of a model without it
    for metric in () if handed_in else YES_OR_NO:  # every label is its own, and nothing has moved yet
        own["before"][metric] |= {"low": float("nan"), "high": float("nan"), "method": "by definition"}
    if len(records) == 1:
        own["before"]["accuracy"] = _of_one_model(records[0])
    part: dict[str, Any] = {
        "targets": sum(map(len, mine)), "seeds": len(records),
        "requests": sum(len(_sizes(record, direction)) for record in records),
        "nothing_requested": sum(empty(record, i) for record, own in zip(records, mine, strict=True) for i in own),
        "requested": _interval([_sizes(record, direction) for record in records], "requested", "requests"),
        "victim_seed": own,
        "effect": {"victim_seed": _effect(records, mine, "after", _own_effects)},
        "effect_defended": {"victim_seed": _effect(records, mine, "defended", _own_effects)},
        "filter": _filter(records, direction),
        "split": _split(records, mine, direction),
        "scores": _scores(records, direction),
        "fresh_seeds": None,
    }  # fmt: skip
    if all(record["fresh_seeds"] is not None for record in records):
        part["fresh_seeds"] = {name: _measured(records, mine, name, _fresh_states) for name in FRESH}
        part["effect"]["fresh_seeds"] = _effect(records, mine, "after", effects_by_fresh_seed)
        part["effect_defended"]["fresh_seeds"] = _effect(records, mine, "defended", effects_by_fresh_seed)
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
    groups: dict[str, list[Runs]] = {}
    for record, own in zip(records, mine, strict=True):
        states = states_of(record, name)
        for metric in (name for name in PER_TARGET if name in states[0]):
            runs = [[float(state[metric][i]) for i in own] for state in states]
            runs = runs if name in SHARED else [_by_request(record, own, run) for run in runs]
            groups.setdefault(metric, []).append(runs)
        goals = sorted({record["targets"]["aim"][i] for i in own})
        for metric, found in states[0].get("models", {}).items():
            used = found if name in SHARED else [found[goal] for goal in goals]
            groups.setdefault(metric, []).append([[float(value) for value in used]])
    units = "targets" if name in SHARED else "requests"
    return {metric: _of_runs(values, metric, units) for metric, values in groups.items()}


def _of_runs(records: Sequence[Runs], metric: str, units: str) -> dict[str, Any]:
    """Over seeds the runs of a seed are averaged; of one seed with several runs both runs and units are what varies."""
    kind = QUANTITIES[metric]
    if len(records) == 1 and len(records[0]) > 1:
        table = torch.tensor(records[0], dtype=torch.float64).T
        if bool(torch.isfinite(table).all()):
            return asdict(crossed_interval(table, "share" if kind.share else "plain", kind.bounds, units))
    averaged = [[sum(values) / len(runs) for values in zip(*runs, strict=True)] for runs in records]
    return _interval(averaged, metric, units)


def _by_request(record: Record, mine: Sequence[int], values: Sequence[float]) -> list[float]:
    """The mean of the targets of each request: they share a model, and a control."""
    by_aim: dict[int, list[float]] = {}
    for i, value in zip(mine, values, strict=True):
        by_aim.setdefault(record["targets"]["aim"][i], []).append(value)
    return [sum(each) / len(each) for each in by_aim.values()]


def _effect(
    records: Sequence[Record], mine: Sequence[Sequence[int]], state: str,
    of: Callable[[Record, str, Sequence[int]], Runs],
) -> dict[str, Any]:  # fmt: skip
    pairs = zip(records, mine, strict=True)
    runs = [[_by_request(record, own, run) for run in of(record, state, own)] for record, own in pairs]
    return _of_runs(runs, "effect", "requests")


def _own_effects(record: Record, state: str, mine: Sequence[int]) -> Runs:
    return [effects(record, state, mine)]


def _interval(groups: Sequence[Sequence[float]], metric: str, units: str) -> dict[str, Any]:
    return asdict(QUANTITIES[metric].interval(groups, units))


def _of_one_model(record: Record) -> dict[str, Any]:
    """The accuracy of the victim itself: over test examples, since there is only one model."""
    test = record["targets"]["test"]
    value = float(record["victim_seed"]["before"]["models"]["accuracy"][0])
    found = rate_interval(round(value * test), test)
    return {**asdict(found), "mean": value, "over": f"{test} test examples"}


def _noise_floor(records: Sequence[Record], mine: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Deleting nothing with fresh seeds: mean absolute change of each target's confidence, and the share kept."""
    change: list[Runs] = []
    kept: list[Runs] = []
    for record, own in zip(records, mine, strict=True):
        before, states = record["victim_seed"]["before"]["confidence"], record["fresh_seeds"]["nothing"]
        change.append([[abs(state["confidence"][i] - before[i]) for i in own] for state in states])
        kept.append([[float(state["kept"][i]) for i in own] for state in states])
    return {
        "confidence": _of_runs(change, "confidence", "targets"), "kept": _of_runs(kept, "kept", "targets"),
    }  # fmt: skip


def _filter(records: Sequence[Record], direction: str) -> dict[str, Any] | None:
    """What the filter did, over all seeds: rates and AUROCs with intervals, and what they were counted over."""
    found = [record["detection"] for record in records]
    if found[0]["defense"] == "none":
        return None
    seen = [each[direction] for each in found if each[direction] is not None]
    part: dict[str, Any] = {"benign_rejected_alone": {}}
    for kind in found[0]["benign_rejected"]:
        rates = [each["benign_rejected"][kind] for each in found]
        alone = _batches(rates[0], found[0]["benign_size"]) if len(rates) == 1 else _over_seeds(rates, "batches")
        part["benign_rejected_alone"][kind] = alone
    if seen:
        paths: dict[str, tuple[str, ...]] = {name: ("decision", name) for name in ("auroc", "tpr_at_1", "tpr_at_5")}
        paths |= {name: (name,) for name in ("caught", "caught_random", "benign_rejected")}
        paths |= {f"auroc_{name}": (name, "auroc") for name in BESIDE if name in seen[0]}
        part |= {name: _detected(seen, path) for name, path in paths.items()}
        counts = ("streams", "malicious", "malicious_distinct", "benign", "benign_distinct")
        part["counts"] = {name: sum(each[name] for each in seen) for name in counts}
    sequences = [each["sequences"] for each in found if each.get("sequences", {}).get(direction)]
    if sequences:
        mine = [each[direction] for each in sequences]
        part["sequences"] = {name: _detected(mine, (name,)) for name in ("caught", "caught_random", "auroc")}
        part["sequences"] |= {"parts": sequences[0]["parts"], "count": sum(each["streams"] for each in mine)}
        alone = {kind: [each["benign"][kind] for each in sequences] for kind in sequences[0]["benign"]}
        part["sequences"]["benign"] = {
            kind: asdict(interval_of_values(groups, True, None, "sequences", trials=True))
            for kind, groups in alone.items()
        }
    return part


def _split(records: Sequence[Record], mine: Sequence[Sequence[int]], direction: str) -> dict[str, Any] | None:
    """What requests that are spread over several streams did, where an attacker was played that does so."""
    found = [record["detection"].get("split") for record in records]
    if any(each is None for each in found):
        return None
    pairs = list(zip(records, mine, strict=True))
    part: dict[str, Any] = {"parts": sorted({each["parts"] for each in found})}
    for name, state, metric in (
        ("success", "attack", "success"), ("success_random", "random", "success"), ("kept", "attack", "kept"),
    ):  # fmt: skip
        runs = [[_by_request(r, own, [r["detection"]["split"][state][metric][i] for i in own])] for r, own in pairs]
        part[name] = _of_runs(runs, metric, "requests")
    part["effect"] = _of_runs([[_by_request(r, own, split_effects(r, own))] for r, own in pairs], "effect", "requests")
    if seen := [each[direction] for each in found if each[direction] is not None]:
        part |= {"auroc": _detected(seen, ("decision", "auroc")), "caught": _detected(seen, ("caught",))}
    return part


def _scores(records: Sequence[Record], direction: str) -> dict[str, Any]:
    """AUROCs of the scores that are computed whatever decides, a filter or none; empty where there are none."""
    found = [record["detection"][direction] for record in records]
    seen = [each for each in found if each is not None]
    return {name: _detected(seen, (name, "auroc")) for name in BESIDE if seen and all(name in each for each in seen)}


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
            "n": values[0]["n"], "over": f"{count(seen[0]['streams'], 'stream')} of one seed",
        }  # fmt: skip
    return _over_seeds([[float(value["value"])] for value in values], "streams")


def _batches(rates: Sequence[float], size: int) -> dict[str, Any]:
    """The share rejected in batches of one seed, with an interval over batches that knows how many records they had."""
    hits = torch.cat([torch.arange(size) < round(rate * size) for rate in rates])
    found = asdict(clustered_rate(hits, torch.arange(len(rates)).repeat_interleave(size)))
    return {**found, "over": f"{len(rates)} batch{'es' * (len(rates) != 1)} of one seed"}


def _over_seeds(groups: Sequence[Sequence[float]], units: str) -> dict[str, Any]:
    return asdict(grouped_interval([torch.tensor(list(g), dtype=torch.float64) for g in groups], "share", units=units))
