"""One game's record as flat rows, one per part: what a data frame, a table and a report read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from data.naming import AUTOMATIC, KEY, option
from games.game import Game

NOT_RECORDED = ("store", "wandb", "figures", "dry_run", AUTOMATIC)  # what no result depends on
GROUPS = ("game", "data", "model", "training", "unlearning", "attack", "defense")
IN_ROWS = frozenset({"sweep", "results", "report"})  # the views that read rows

Row = dict[str, Any]


def rows(game: Game, record: Mapping[str, Any], digest: str = "", path: str = "", created: str = "") -> list[Row]:
    """The rows of a record of `game`: where it is, what was played, and the mean of every metric that a view shows.

    The columns are the options of the groups, `seed`, `goal` (what counts as success, in words), every setting by its
    dotted path, `part`, for every shared metric its mean over the units of the part, and `n_METRIC`, over how many
    units. What is not defined is None.
    """
    config = record["config"]
    settings = dict(_leaves({key: value for key, value in config.items() if key not in ("seed", "repetitions", KEY)}))
    shared: Row = {
        "digest": digest, "path": path, "created": created, "toolkit": record["versions"]["toolkit"],
        **{group: option(config, group) for group in GROUPS},
        "seed": record["seed"], "goal": str(record.get("criterion", {}).get("goal", "")), **settings,
    }  # fmt: skip
    found = []
    for part in game.parts(record):
        row = {**shared, "part": part.name, "heading": part.label}
        for metric in game.metrics():
            if metric.shown & IN_ROWS:
                values = metric.values(part)
                row[metric.name] = sum(values.values()) / len(values) if values else None
        found.append(row)
    return found


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, str(value) if isinstance(value, (list, dict)) else value
