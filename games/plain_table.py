"""The table of a game that brings none of its own: a metric a row, a part a column, means with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from metrics.wording import of_fewer, plus_minus

if TYPE_CHECKING:
    from games.game import Game, Metric, Record


def plain_table(game: Game, records: Sequence[Record]) -> Table:
    """Every metric that a game shows in a terminal, by part, over the records."""
    table = Table(box=box.SIMPLE_HEAVY, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left")
    table.add_column("", no_wrap=True)
    labels = {part.name: part.label for record in records for part in game.parts(record)}
    for label in labels.values():
        table.add_column(label, justify="right", no_wrap=True)
    for metric in game.metrics():
        if "game" in metric.shown:
            cells = [_cell(game, metric, records, name) for name in labels]
            if any(cells):
                table.add_row(metric.label, *cells)
    return table


def _cell(game: Game, metric: Metric, records: Sequence[Record], name: str) -> str:
    parts = [part for record in records for part in game.parts(record) if part.name == name]
    groups = [list(metric.values(part).values()) for part in parts]
    if not any(groups):
        return ""
    fewer = of_fewer(sum(map(bool, groups)), len(groups))
    return plus_minus(asdict(metric.interval(groups)), metric.digits, metric.factor) + fewer
