"""The table at the end of a sweep: one line per combination and part, means with 95% intervals over its games."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from data.fitted import Head, console
from data.fitted import show as show_fitted
from experiments.listing.row import Row, contributed, rows, usual
from games.game import Game, Metric
from metrics.wording import of_fewer, plus_minus

if TYPE_CHECKING:
    from experiments.sweeps.sweep import CellStatus
    from storage.store import Store

SEEDS = ("seed", "repetitions")


def show(cells: Sequence[CellStatus], store: Store, folder: Path) -> None:
    """Print the tables of the finished `cells` to standard output, one for each game, and draw its maps in `folder`."""
    from experiments.cli.roles import game_of
    from experiments.play.figures import draw

    played: dict[str, list[CellStatus]] = {}
    for status in cells:
        played.setdefault(status.cell.config["game"]["_target_"], []).append(status)
    for alike in played.values():
        game = game_of(alike[0].cell.config)
        lines = _lines(game, alike, store)
        if lines:
            _show(game, lines)
        made = draw(game.maps([row for games in lines.values() for row in games]), folder)
        print("".join(f"Map: {file}\n" for file in made.values()), end="")


def _show(game: Game, lines: Mapping[tuple[tuple[str, ...], str], Sequence[Row]]) -> None:
    """The table of the games of the cells, with the sentence of every metric in it."""
    common = set.intersection(*(set(overrides) for overrides, _ in lines))
    candidates = [metric for metric in game.metrics() if "sweep" in metric.shown]
    metrics = [metric for metric in candidates if any(cell(games, metric) for games in lines.values())]
    labels = Counter(metric.label for metric in metrics)
    headings = [m.label if labels[m.label] == 1 else m.name.replace("_", " ") for m in metrics]
    heads = [Head("cell", False), Head("part", False), Head("n")]
    heads += [Head(text.replace(" ", "\n", 1)) for text in headings]
    table = [
        [" ".join(text for text in overrides if text not in common), part, str(len(games))]
        + [cell(games, metric) for metric in metrics]
        for (overrides, part), games in lines.items()
    ]
    terminal = console()
    show_fitted(terminal, heads, table, keys=3, title="Mean and 95% interval over games (seeds)")
    for heading, metric in zip(headings, metrics, strict=True):
        terminal.print(f"{heading}: {metric.help}", soft_wrap=True)
    said = "n: games (seeds); intervals are over them, so that one game has none."
    if any("(n=" in text for row in table for text in row[3:]):
        said += " Where a metric is not defined in all of them, its own n stands beside it."
    terminal.print(said, soft_wrap=True)


def _lines(game: Game, cells: Sequence[CellStatus], store: Store) -> dict[tuple[tuple[str, ...], str], list[Row]]:
    """The rows of the games by the overrides of their cell, without those of seeds, and by part."""
    lines: dict[tuple[tuple[str, ...], str], list[Row]] = {}
    only = usual([game])
    for status in cells:
        overrides = tuple(text for text in status.cell.overrides if text.partition("=")[0] not in SEEDS)
        for file in status.files:
            record = store.find_record(file)
            if record is None:
                store.notify(f"The record {file} was finished, and cannot be read now; it is not in the table.")
                continue
            for row in rows(game, record, only=only):
                lines.setdefault((overrides, row["part"]), []).append(row)
    return lines


def cell(games: Sequence[Row], metric: Metric) -> str:
    """A mean over games with its 95% interval over seeds, and its n where that is not all; empty where undefined."""
    values = [contributed(row, metric) for row in games if row.get(metric.name) is not None]
    if not values:
        return ""
    interval = asdict(metric.interval(values))
    fewer = of_fewer(len(values), len(games))
    if len(values) == 1 or interval["high"] == interval["low"]:
        return f"{metric.factor * interval['mean']:.{metric.digits}f}{fewer}"
    return plus_minus(interval, metric.digits, metric.factor) + fewer
