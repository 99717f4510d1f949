"""The columns of the results table: what was chosen from each group, and the metrics as their game defines them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from games.game import Game, Metric

# groups of settings in the order of the table, and what stands in each
SETTINGS = {
    "attack": "what the crook does", "unlearning": "how the provider forgets",
    "defense": "what the defender does about it", "data": "what the victim was trained on",
    "model": "the victim's architecture", "training": "how it was trained", "game": "what was played",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One metric: its key in the frame, the heading over several columns, its own, and how its numbers are written."""

    key: str
    title: str
    group: str
    digits: int
    signed: bool
    help: str


def in_report(game: Game) -> list[Metric]:
    """The metrics that a report of the game shows; those under one heading stand together."""
    shown = [metric for metric in game.metrics() if "report" in metric.shown]
    heads = list(dict.fromkeys(map(_head, shown)))
    return sorted(shown, key=lambda metric: heads.index(_head(metric)))


def columns(game: Game) -> Iterator[Column]:
    """The columns of the metrics that a report shows; several metrics with one label are told apart by their names."""
    for head, metrics in groupby(in_report(game), key=_head):
        mine = list(metrics)
        one_label = len(mine) > 1 and len({metric.label for metric in mine}) == 1
        shared = os.path.commonprefix([metric.name for metric in mine]).rpartition("_")[0]  # noqa: RUF071 (no paths)
        for metric in mine:
            name = metric.name.removeprefix(f"{shared}_").replace("_", " ")
            group = f"{head[0].upper()}{head[1:]}" if metric.group or one_label else ""
            title = name if one_label else metric.label
            yield Column(metric.name, title, group, metric.digits, metric.signed, metric.help)


def _head(metric: Metric) -> str:
    return metric.group or metric.label
