"""One game's record as flat rows, one per direction: what a data frame, a table and a report read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from experiments.cli.choices import KEY, option
from games.request.effects import FRESH, SHARED, STATES, effects, fresh_effects, of_direction

VERSION = 4  # raise it when the rows of a record change: indexes of stores are then made anew
STAGES = ("victim", "attack", "judgement")  # of a game; its other seconds are those of single requests, among these
AUTOMATIC = "automatic"  # lists the options for which `auto` was typed, in a settled configuration and in a record
NOT_RECORDED = ("store", "wandb", "figures", "dry_run", AUTOMATIC)  # what no result depends on
GROUPS = ("data", "model", "training", "unlearning", "attack", "defense")
SUCCEEDED = ("after", "random", "nearest", "stream", "defended", "defended_random")

Row = dict[str, Any]


def rows(record: Mapping[str, Any], digest: str = "", path: str = "", created: str = "") -> list[Row]:
    """The rows of a game's record: where it is, what was played, and the mean of every measurement.

    Means over targets: `confidence_STATE`, `entropy_STATE` (nats), `kept_STATE` (share), `success_STATE` (share that
    succeeded by the attack's own criterion, named in `goal`), `attained_STATE` (how much of its goal it reached). Means
    over models: `accuracy_STATE`, `ece_STATE` and the other metrics of a model. `effect`: what the attack attained less
    what a random request of the same size did (see `games.request.effects`); positive is as wanted.
    `confidence_effect`: confidence after the attack minus after the random request. What is not defined is None.
    """
    config = record["config"]
    settings = dict(_leaves({key: value for key, value in config.items() if key not in ("seed", "repetitions", KEY)}))
    shared: Row = {
        "digest": digest, "path": path, "created": created, "toolkit": record["versions"]["toolkit"],
        **{group: option(config, group) for group in GROUPS},
        "seed": record["seed"], "mode": config["targets"]["mode"], "goal": record["criterion"]["goal"],
        **settings,
        "queries": record["queries"], "predictions": record["predictions"],
        "operator_calls": record["operator_calls"], "memory_mb": record["memory_mb"]["peak"],
        "seconds": sum(record["seconds"][stage] for stage in STAGES),
        "relative_distance_in_sequence": number(record.get("in_sequence", {}).get("relative_distance")),
        **{f"seconds_{stage}": seconds for stage, seconds in record["seconds"].items()},
    }  # fmt: skip
    directions = dict.fromkeys(record["targets"]["direction"])
    return [{**shared, "direction": direction, **_measured(record, direction)} for direction in directions]


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, str(value) if isinstance(value, (list, dict)) else value


def _measured(record: Mapping[str, Any], direction: str) -> Row:
    targets, own, fresh = record["targets"], record["victim_seed"], record["fresh_seeds"]
    mine = of_direction(record, direction)
    aims = sorted({targets["aim"][i] for i in mine})
    of_targets, of_models = picker(mine), picker(aims)
    row: Row = {
        "targets": len(mine),
        "requests": len(aims),
        "requested": mean([len(each["indices"]) for each in of_models(record["requests"])]),
    }
    for state in STATES:
        for quantity in ("confidence", "entropy", "kept"):
            row[f"{quantity}_{state}"] = mean(of_targets(own[state][quantity]))
        for metric, values in own[state].get("models", {}).items():
            row[f"{metric}_{state}"] = mean(values if state in SHARED else of_models(values))
    for state in SUCCEEDED:
        for quantity in ("success", "attained"):
            row[f"{quantity}_{state}"] = mean(of_targets(own[state][quantity]))
    row["effect"], row["effect_defended"] = (mean(effects(record, state, mine)) for state in ("after", "defended"))
    row["confidence_effect"] = row["confidence_after"] - row["confidence_random"]
    for state in FRESH if fresh is not None else ():
        for name in ("confidence", "kept", "success"):
            row[f"fresh_{name}_{state}"] = mean([mean(of_targets(each[name])) for each in fresh[state]])
    if fresh is not None:
        row["fresh_effect"] = mean(fresh_effects(record, "after", mine))
        row["fresh_effect_defended"] = mean(fresh_effects(record, "defended", mine))
    return row | _detected(record["detection"], direction)


def picker(positions: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function that takes the items at these positions out of a sequence."""
    if len(positions) == 1:
        return lambda values: (values[positions[0]],)
    return itemgetter(*positions)  # many times a record, so at the speed of C


def _detected(detection: Mapping[str, Any], direction: str) -> Row:
    row: Row = {}
    found = detection[direction]
    if detection["defense"] == "none":
        return row
    kinds = list(detection["benign_rejected"].values())
    row["benign_only_rejected"] = mean(kinds[0])
    row["harder_only_rejected"] = mean(kinds[1]) if len(kinds) > 1 else None
    if found is None:
        return row
    row |= {"caught": number(found["caught"]["value"]), "benign_rejected": number(found["benign_rejected"]["value"])}
    row |= {name: number(found["decision"][name]["value"]) for name in ("auroc", "tpr_at_1", "tpr_at_5")}
    return row | {f"auroc_{s}": number(found[s]["auroc"]["value"]) for s in ("S1", "S8") if s in found}


def number(value: Any) -> float | None:
    """A stored number; None for one that is not finite, which JSON keeps as a string."""
    return None if value is None or isinstance(value, str) else float(value)


def mean(values: Sequence[Any]) -> float | None:
    """The mean of the finite numbers among `values`; None where there are none (as of an AUROC without any error)."""
    try:
        return sum(values) / len(values)  # nearly always, and an index is made of thousands of records
    except (TypeError, ZeroDivisionError):
        finite = [value for value in values if value is not None and not isinstance(value, str)]
        return sum(finite) / len(finite) if finite else None
