"""Put the page together: sections, data and code in one file below a limit of bytes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from experiments.report_page.claims import claims_section
from experiments.report_page.columns import METRICS, SETTINGS
from experiments.report_page.encode import Overrides, cells, filled, games
from experiments.report_page.gallery import Gallery, gallery, nothing_shown
from experiments.report_page.heatmap import as_table, heatmap
from experiments.report_page.markup import asset, count, escape, inline_hash, script_json
from experiments.report_page.overview import overview, warnings
from experiments.report_page.pool import pool

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_BYTES = 20_000_000
MARGIN = 40_000  # bytes for the remarks, which are known last
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
    records: Callable[[str], dict[str, Any]],
    tables: Sequence[Mapping[str, Any]],
    overrides: Overrides,
    options: Options,
) -> Page:
    """Make the page of the games in `frame` (columns as `games.request.row.rows` gives them, at least one row).

    Args:
        frame: one row per game and direction.
        records: the record of the game whose path is given; asked for the games whose figures are shown.
        tables: the contents of `table.json` files, whose claims are shown.
        overrides: what to type after `experiments/run.py` to play the game of the given path again, without its seed.
        options: texts and limits.
    """
    pooled = pool(frame)
    n_games, n_cells = int(frame["digest"].nunique()), int(pooled.games["cell"].nunique())
    remarks = list(options.remarks)
    if pooled.repeated:
        remarks.append(
            f"{count(pooled.repeated, 'game')} with a seed that its cell has more than once: only the newest is pooled."
        )
    pictures = gallery(pooled.games, records, options.figures, options.figure_bytes)
    left_out = list(pictures.left_out)
    found = heatmap(pooled)
    fixed = {
        "claims": claims_section(tables), "heatmap_table": as_table(found),
        "figures": _figures(pictures, n_games, options),
        "overview": overview(pooled, options.filters, options.store), **_code(), **_texts(options, n_games, n_cells),
    }  # fmt: skip
    heads = {
        name: [asdict(column) for column in columns] for name, columns in (("settings", SETTINGS), ("metrics", METRICS))
    }
    head = script_json({**heads, "heatmap": found})
    template = asset("template.html")
    taken = sum(len(part.encode()) for part in (template, head, *fixed.values()))
    room = options.page_bytes - MARGIN - taken
    cell_text, kept = filled(lambda k: script_json(cells(pooled, overrides, k)), n_cells, room)
    of_kept = int(pooled.games.loc[pooled.games["cell"] < kept, "digest"].nunique())
    game_text, shown = filled(
        lambda k: script_json(games(pooled, options.folder, kept, k)), of_kept, room - len(cell_text)
    )
    if kept < n_cells:
        left_out.append(f"{count(n_cells - kept, 'cell')} of {n_cells:,} left out of the table and of the commands.")
    if shown < n_games:
        left_out.append(f"{count(n_games - shown, 'game')} of {n_games:,} left out of the table of games.")
    if kept < n_cells or shown < n_games:
        left_out.append(f"The page would exceed {options.page_bytes / 1e6:g} MB; give a filter to see the others.")
    fixed["warnings"] = warnings([*remarks, *left_out])
    fixed["data"] = f'{head[:-1]},"cells":{cell_text},"games":{game_text}}}'
    return Page(Template(template).substitute(fixed), n_games, tuple(left_out))


def _figures(pictures: Gallery, games: int, options: Options) -> str:
    if not pictures.shown:
        return nothing_shown(games, options.figures)
    rest = games - pictures.shown
    more = (
        f" The records of the other {count(rest, 'game')} are linked from the rows of the results." if rest > 0 else ""
    )
    return f"<p>{count(pictures.shown, 'game')} of {games:,}, one of each cell first.{more}</p>{pictures.html}"


def _code() -> dict[str, str]:
    """Styles and scripts, and the policy that admits these scripts, pictures inside the page, and nothing else."""
    tabulator, plotly = asset("vendor/tabulator/tabulator.min.js"), asset("vendor/plotly/plotly-cartesian.min.js")
    own = "\n".join(asset(name) for name in SCRIPTS)
    hashes = " ".join(inline_hash(script) for script in (tabulator, plotly, own))
    licences = [f"{name}\n{asset(f'vendor/{name.lower()}/LICENSE')}" for name in ("Tabulator", "Plotly")]
    return {
        "vendor_css": asset("vendor/tabulator/tabulator_simple.min.css"),
        "page_css": "\n".join(asset(name) for name in STYLES),
        "tabulator": tabulator, "plotly": plotly, "page_js": own, "licences": "\n\n".join(licences),
        "policy": f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:",
    }  # fmt: skip


def _texts(options: Options, games: int, cells: int) -> dict[str, str]:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    filtered = f", filtered by <code>{escape(shlex.join(options.filters))}</code>" if options.filters else ""
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in options.versions.items())
    return {
        "title": escape(options.title), "command": escape(options.made_by), "versions": f"{made}. {versions}",
        "version": escape(options.versions.get("toolkit", "")),
        "lede": f"{count(games, 'game')} in {count(cells, 'cell')}{filtered}. Made on {made[:10]}.",
    }  # fmt: skip
