"""What is in the page: counts, dates, versions, warnings, and how to read the numbers."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from experiments.report_page.encode import ranges
from experiments.report_page.markup import count, escape
from experiments.report_page.pool import Pooled

if TYPE_CHECKING:
    from pandas import DataFrame


def overview(pooled: Pooled, filters: Sequence[str], store: str) -> str:
    """The tiles and the facts below them."""
    games = pooled.games
    n_games, n_cells = games["digest"].nunique(), games["cell"].nunique()
    seeds = sorted({int(seed) for seed in games["seed"]})
    tiles = "".join(
        f"<li><b>{number:,}</b> {name}</li>"
        for number, name in (
            (n_games, "games" if n_games != 1 else "game"),
            (n_cells, "cells" if n_cells != 1 else "cell"),
            (len(seeds), "seeds" if len(seeds) != 1 else "seed"),
        )
    )
    facts = [
        ("Data sets", _listed(games, "data")),
        ("Models", _listed(games, "model")),
        ("Procedures", _listed(games, "procedure")),
        ("Attacks", _listed(games, "who")),
        ("Defenses", _listed(games, "defense_name")),
        ("Seeds", escape(ranges(seeds) if len(ranges(seeds)) < 80 else f"{seeds[0]} to {seeds[-1]}")),
        ("Played", escape(_dates(games))),
        ("Toolkit", _listed(games, "toolkit")),
        ("Filter", f"<code>{escape(shlex.join(filters))}</code>" if filters else "none: every game of the store"),
        ("Store", f"<code>{escape(store)}</code>"),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f"<ul class=tiles>{tiles}</ul><dl class=facts-list>{listed}</dl>"


def _listed(games: DataFrame, column: str) -> str:
    names = sorted({str(name) for name in games[column]})
    shown = ", ".join(escape(name) for name in names[:12])
    rest = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{shown}{rest}{f' <small>({len(names)})</small>' if len(names) > 1 else ''}"


def _dates(games: DataFrame) -> str:
    days = games["created"].astype(str).str[:10]
    first, last = days.min(), days.max()
    return str(first) if first == last else f"{first} to {last}"


def warnings(sentences: Iterable[str], shown: int = 50) -> str:
    """A box with what went wrong or was left out; nothing where nothing was."""
    every = list(sentences)
    if not every:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in every[:shown])
    more = f"<li>and {len(every) - shown:,} more</li>" if len(every) > shown else ""
    return f"<div class=warnings role=note><h3>{count(len(every), 'remark')}</h3><ul>{items}{more}</ul></div>"
