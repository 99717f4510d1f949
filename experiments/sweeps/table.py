"""The table at the end of a sweep: one line per combination and part, means with 95% intervals over its games."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from experiments.cli.fitted import Head, console
from experiments.cli.fitted import show as fitted
from experiments.storage.row import Row, contributed, rows
from games.game import Game, Metric
from metrics.wording import plus_minus

if TYPE_CHECKING:
    from experiments.storage.store import Store
    from experiments.sweeps.sweep import CellStatus

SEED = ("seed", "repetitions")


def show(cells: Sequence[CellStatus], store: Store) -> None:
    """Print the tables of the finished `cells` to standard output, one for each game that was played."""
    from experiments.cli.roles import game_of

    by_game: dict[str, tuple[Game, list[CellStatus]]] = {}
    for each in cells:
        game = game_of(each.cell.config)
        by_game.setdefault(game.name, (game, []))[1].append(each)
    for game, mine in by_game.values():
        _show(game, mine, store)


def _show(game: Game, cells: Sequence[CellStatus], store: Store) -> None:
    groups: dict[tuple[str, str], list[Row]] = {}
    for each in cells:
        texts = [text for text in each.cell.overrides if text.partition("=")[0] not in SEED]
        for file in each.files:
            record = store.find_record(file)
            if record is None:
                store.notify(f"The record {file} was finished, and cannot be read now; it is not in the table.")
                continue
            for row in rows(game, record):
                groups.setdefault((" ".join(texts), row["part"]), []).append(row)
    if not groups:
        return
    common = set.intersection(*(set(name.split(" ")) for name, _ in groups))
    metrics = [metric for metric in game.metrics() if "sweep" in metric.shown]
    lines, names = [], []
    for (name, part), found in groups.items():
        shown = " ".join(text for text in name.split(" ") if text not in common)
        names.append((shown, part, str(len(found))))
        lines.append([cell(found, metric) for metric in metrics])
    there = [i for i in range(len(metrics)) if any(line[i] for line in lines)]
    heads = [Head("cell", False), Head("part", False), Head("n"), *(Head(_heading(metrics[i])) for i in there)]
    table = [[*name, *(line[i] for i in there)] for name, line in zip(names, lines, strict=True)]
    terminal = console()
    fitted(terminal, heads, table, keys=3, title="Mean and 95% interval over games (seeds)")
    for i in there:
        terminal.print(f"{metrics[i].name}: {metrics[i].help}", soft_wrap=True)
    terminal.print("n: games (seeds); intervals are over them, so that one game has none.", soft_wrap=True)


def _heading(metric: Metric) -> str:
    return metric.name.replace("_", "\n", 1).replace("_", " ")


def cell(found: Sequence[Row], metric: Metric) -> str:
    """A mean over games with its 95% interval over seeds; empty where it is not defined."""
    values = [contributed(row, metric) for row in found if row.get(metric.name) is not None]
    if not values:
        return ""
    made = asdict(metric.interval(values))
    factor = 1.0 if metric.scale == "plain" else 100.0
    if len(values) == 1 or made["high"] == made["low"]:
        return f"{factor * made['mean']:.{metric.digits}f}"
    return plus_minus(made, metric.digits, factor)
