"""Put the page together: sections, data and code in one file below a limit of bytes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report_page.claims import claims_section
from experiments.report_page.columns import SETTINGS, columns
from experiments.report_page.encode import Overrides, cells, filled, ranges
from experiments.report_page.encode import games as games_of
from experiments.report_page.gallery import gallery
from experiments.report_page.heatmap import heatmap
from experiments.report_page.markup import asset, count, inline_hash, rendered, script_json
from experiments.report_page.pool import Pooled, pool
from games.game import Game

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_BYTES = 20_000_000
MARGIN = 40_000  # bytes for the remarks, which are known last
REMARKS = 50  # that are shown
LISTED = 12  # names of one kind
STYLES = ("page.css", "table.css")
SCRIPTS = ("page.js", "heatmap.js", "results.js")


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
    frame: DataFrame,
    games: Mapping[str, Game],
    records: Callable[[str], dict[str, Any]],
    tables: Sequence[Mapping[str, Any]],
    overrides: Overrides,
    options: Options,
) -> Page:
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
    n_games, n_cells = int(every["digest"].nunique()), int(every["cell"].nunique())
    pictures, left_out = gallery(played, records, options.figures, options.figure_bytes)
    shown = [_shown(each) for each in played]
    values = {
        "options": options, "claims": claims_section(tables), "shown": pictures, "played": shown,
        "games": n_games, "cells": n_cells, "filter": shlex.join(options.filters), "most_remarks": REMARKS,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), **_overview(every, options),
        **_code(),
    }  # fmt: skip
    head = script_json({"settings": {**SETTINGS, "part": "what a row is about"}, "played": shown})
    taken = len(head) + len(rendered("template.html", **values, remarks=[], data="").encode())
    numbers, cut = _numbers(played, every, overrides, options, options.page_bytes - MARGIN - taken)
    left_out += cut
    remarks = [*options.remarks, *_repeated(played), *left_out]
    html = rendered("template.html", **values, remarks=remarks, data=f"{head[:-1]},{numbers}}}")
    return Page(html, n_games, tuple(left_out))


def _numbers(
    played: Sequence[Pooled], every: DataFrame, overrides: Overrides, options: Options, room: int
) -> tuple[str, list[str]]:
    """The entries `cells` and `games` of the page's data, as many as have `room`; and what was left out, in words."""
    n_games, n_cells = int(every["digest"].nunique()), int(every["cell"].nunique())
    cell_text, kept = filled(lambda k: script_json(cells(played, overrides, k)), n_cells, room)
    of_kept = int(every.loc[every["cell"] < kept, "digest"].nunique())
    game_text, listed = filled(
        lambda k: script_json(games_of(played, options.folder, kept, k)), of_kept, room - len(cell_text)
    )
    cut = []
    if kept < n_cells:
        cut.append(f"{count(n_cells - kept, 'cell')} of {n_cells:,} left out of the table and of the commands.")
    if listed < n_games:
        cut.append(f"{count(n_games - listed, 'game')} of {n_games:,} left out of the table of games.")
        cut.append(f"The page would exceed {options.page_bytes / 1e6:g} MB; give a filter to see the others.")
    return f'"cells":{cell_text},"games":{game_text}', cut


def _overview(games: DataFrame, options: Options) -> dict[str, Any]:
    """The `tiles`, such as `12 games`, and the `facts` below them, each a heading and words."""
    seeds = sorted({int(seed) for seed in games["seed"]})
    numbers = {"game": games["digest"].nunique(), "cell": games["cell"].nunique(), "seed": len(seeds)}
    days = games["created"].astype(str).str[:10]
    said = {
        "seeds": ranges(seeds) if len(ranges(seeds)) < 80 else f"{seeds[0]} to {seeds[-1]}",
        "played": " to ".join(dict.fromkeys([days.min(), days.max()])), "toolkit": _listed(games, "toolkit"),
        "filter": shlex.join(options.filters) or "none: every game of the store", "store": options.store,
    }  # fmt: skip
    return {
        "tiles": [count(n, noun) for noun, n in numbers.items()],
        "facts": {name: _listed(games, name) for name in SETTINGS} | said,
    }


def _listed(games: DataFrame, column: str) -> str:
    names = sorted({str(name) for name in games[column]})
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest + (f" ({len(names)})" if len(names) > 1 else "")


def _shown(pooled: Pooled) -> dict[str, Any]:
    """What the page knows of a game beside its numbers."""
    return {
        "name": pooled.game.name, "metrics": [asdict(column) for column in columns(pooled.game)],
        "heatmap": heatmap(pooled),
    }  # fmt: skip


def _repeated(played: Sequence[Pooled]) -> list[str]:
    repeated = sum(each.repeated for each in played)
    said = f"{count(repeated, 'game')} with a seed that its cell has more than once: only the newest is pooled."
    return [said] if repeated else []


def _code() -> dict[str, Any]:
    """Styles and scripts, and the policy that admits these scripts, pictures inside the page, and nothing else."""
    names = ("vendor/tabulator/tabulator.min.js", "vendor/plotly/plotly-cartesian.min.js")
    scripts = [*map(asset, names), "\n".join(asset(name) for name in SCRIPTS)]
    licences = [f"{name}\n{asset(f'vendor/{name.lower()}/LICENSE')}" for name in ("Tabulator", "Plotly")]
    styles = [asset("vendor/tabulator/tabulator_simple.min.css"), "\n".join(asset(name) for name in STYLES)]
    hashes = " ".join(map(inline_hash, scripts))
    return {
        "styles": styles, "scripts": scripts, "licences": "\n\n".join(licences),
        "policy": f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:",
    }  # fmt: skip
