"""Put the page together: sections, data and code in one file below a limit of bytes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report_page import encode
from experiments.report_page.claims import claims_section
from experiments.report_page.columns import SETTINGS, columns
from experiments.report_page.gallery import gallery
from experiments.report_page.heatmap import heatmap
from experiments.report_page.markup import count, rendered, script_json
from experiments.report_page.pool import Pooled, pool
from games.game import Game

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_BYTES = 20_000_000
MARGIN = 40_000  # bytes for the remarks, which are known last
REMARKS = 50  # that are shown
LISTED = 12  # names of one kind


@dataclass(frozen=True)
class Options:
    """How the page is made: its texts, its limits, and what the footer says about its origin.

    `folder` is where the page will lie, from which records are linked; `remarks` are sentences for the reader, such as
    the names of damaged records that were skipped.
    """

    title: str = "Unlearning games"
    filters: Sequence[str] = ()
    figures: int = 4
    figure_bytes: int = 8_000_000
    page_bytes: int = MOST_BYTES
    folder: Path = Path()
    store: str = "outputs/store"
    made_by: str = "python experiments/report.py"
    versions: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """The page as text, the number of games it is about, and sentences about what was left out."""

    html: str
    games: int
    left_out: tuple[str, ...]


def build(
    frame: DataFrame, games: Mapping[str, Game], records: Callable[[str], dict[str, Any]],
    tables: Sequence[Mapping[str, Any]], overrides: encode.Overrides, options: Options,
) -> Page:  # fmt: skip
    """Make the page of the games in `frame` (columns as `experiments.listing.row` has them, at least one row).

    Args:
        frame: one row per game and part.
        games: the games that there are, by name.
        records: the record of the game whose path is given; asked for the games whose figures are shown.
        tables: the contents of `table.json` files, whose claims are shown.
        overrides: what to type after `experiments/run.py` to play the game of the given path again, without its seed.
        options: texts and limits.

    Raises UserError for rows of a game that is not among `games`.
    """
    import pandas as pd

    played = pool(frame, games)
    every = pd.concat([each.games for each in played])
    n_games = every["digest"].nunique()
    pictures, left_out = gallery(every, games, records, options.figures, options.figure_bytes)
    shown = [
        {"name": each.game.name, "metrics": [asdict(column) for column in columns(each.game)], "heatmap": heatmap(each)}
        for each in played
    ]
    values = {
        "options": options, "claims": claims_section(tables), "shown": pictures, "played": shown,
        "games": n_games, "cells": every["cell"].nunique(), "seeds": every["seed"].nunique(),
        "facts": _facts(every, options), "filter": shlex.join(options.filters), "most_remarks": REMARKS,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip
    head = script_json({"settings": {**SETTINGS, "part": "what a row is about"}, "played": shown})
    taken = len(head) + len(rendered("template.html", **values, remarks=[], data="").encode())
    numbers, cut = _numbers(played, every, overrides, options, options.page_bytes - MARGIN - taken)
    left_out += cut
    remarks = [*options.remarks]
    if repeated := sum(each.repeated for each in played):
        remarks.append(
            f"{count(repeated, 'game')} with a seed that its cell has more than once: only the newest is pooled."
        )
    remarks += left_out
    html = rendered("template.html", **values, remarks=remarks, data=f"{head[:-1]},{numbers}}}")
    return Page(html, n_games, tuple(left_out))


def _numbers(
    played: Sequence[Pooled], every: DataFrame, overrides: encode.Overrides, options: Options, room: int
) -> tuple[str, list[str]]:
    """The entries `cells` and `games` of the page's data, as many as have `room`; and what was left out, in words."""
    n_games, n_cells = every["digest"].nunique(), every["cell"].nunique()
    cell_text, kept = encode.filled(lambda k: script_json(encode.cells(played, every, overrides, k)), n_cells, room)
    of_kept = every.loc[every["cell"] < kept, "digest"].nunique()
    game_text, listed = encode.filled(
        lambda k: script_json(encode.games(played, every, options.folder, kept, k)), of_kept, room - len(cell_text)
    )
    cut = []
    if kept < n_cells:
        cut.append(f"{count(n_cells - kept, 'cell')} of {n_cells:,} left out of the table and of the commands.")
    if listed < n_games:
        cut.append(f"{count(n_games - listed, 'game')} of {n_games:,} left out of the table of games.")
        cut.append(f"The page would exceed {options.page_bytes / 1e6:g} MB; give a filter to see the others.")
    return f'"cells":{cell_text},"games":{game_text}', cut


def _facts(games: DataFrame, options: Options) -> dict[str, str]:
    """What the overview says, by heading."""
    seeds = sorted(games["seed"].unique().tolist())
    runs = encode.ranges(seeds)
    days = games["created"].astype(str).str[:10]
    return {name: _listed(games, name) for name in SETTINGS} | {
        "seeds": runs if len(runs) < 80 else f"{seeds[0]} to {seeds[-1]}",
        "played": " to ".join(dict.fromkeys([days.min(), days.max()])), "toolkit": _listed(games, "toolkit"),
        "filter": shlex.join(options.filters) or "none: every game of the store", "store": options.store,
    }  # fmt: skip


def _listed(games: DataFrame, column: str) -> str:
    names = sorted({str(name) for name in games[column]})
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest + (f" ({len(names)})" if len(names) > 1 else "")
