"""One game's record as flat rows, one per part: what a data frame, a table and a report read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from data.naming import AUTOMATIC, KEY, option
from games.game import Game, Metric, heat

NOT_RECORDED = ("store", "wandb", "figures", "dry_run", AUTOMATIC)  # what no result depends on
GROUPS = ("game", "data", "model", "training", "unlearning", "attack", "defense")
IN_ROWS = frozenset({"sweep", "results", "report"})  # the views that read rows
POOLED = frozenset({"sweep", "report"})  # those that pool rows
TRIALS = ":trials"

Row = dict[str, Any]


def rows(
    game: Game, record: Mapping[str, Any], where: Sequence[str] = ("", "", ""), only: Collection[str] | None = None
) -> list[Row]:
    """The rows of a record of `game`: `where` it is (digest, path, time), what was played, and what was measured.

    The columns are the options of the groups and the name of the game, `seed`, `goal` (what counts as success), every
    setting by its dotted path, `part`, and for every metric of a view, or `only` some, its mean over the units of
    the part; behind a pooled share of yes and no stand `METRIC:trials` independent ones. What is not defined is None.
    """
    config = record["config"]
    settings = dict(_leaves({key: value for key, value in config.items() if key not in ("seed", "repetitions", KEY)}))
    shared: Row = {
        **dict(zip(("digest", "path", "created"), where, strict=True)), "toolkit": record["versions"]["toolkit"],
        **{group: option(config, group) for group in GROUPS}, "game": game.name,
        "seed": record["seed"], "goal": str(record.get("criterion", {}).get("goal", "")), **settings,
    }  # fmt: skip
    found, metrics = [], [m for m in game.metrics() if m.shown & IN_ROWS and (only is None or m.name in only)]
    for part in game.parts(record):
        row = {**shared, "part": part.name, "heading": part.label}
        for metric in metrics:
            row[metric.name] = metric.mean(part)
            if metric.trials is not None and metric.shown & POOLED:
                row[f"{metric.name}{TRIALS}"] = metric.trials(part)
        found.append(row)
    return found


def usual(games: Iterable[Game]) -> frozenset[str]:
    """The names of the metrics that a sweep, report or heat map of one of the games shows."""
    return frozenset(m.name for game in games for m in game.metrics() if m.shown & POOLED or m.name in heat(game))


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, str(value) if isinstance(value, (list, dict)) else value


def contributed(row: Mapping[str, Any], metric: Metric) -> list[float]:
    """What a row contributes to a metric over games: its mean, and of yes and no every independent answer."""
    mean, trials = float(row[metric.name]), row.get(f"{metric.name}{TRIALS}")
    if not trials or trials != trials:
        return [mean]
    hits = round(mean * int(trials))
    return [1.0] * hits + [0.0] * (int(trials) - hits)
