"""All finished games of a store as one table: `python experiments/results.py attack=uncertainty 'seed<3'`."""

from __future__ import annotations

import argparse
import io
import logging
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.fitted import Head, console, show
from experiments.cli.arguments import make_importable
from experiments.cli.roles import known_games
from experiments.cli.script import Parser, ended, folder, place, printable, whole_number
from experiments.listing.filters import no_column, plain, select
from games.game import Game

if TYPE_CHECKING:
    import pandas

__all__ = ["frame", "main", "record", "select"]

Notify = Callable[[str], None]
Asked = Collection[str] | None

log = logging.getLogger(__name__)
NAMING = ("game", "attack", "attack.access", "unlearning", "defense", "data", "part", "seed")  # what a line is


def frame(
    folder: Path, notify: Notify = log.warning, games: Mapping[str, Game] | None = None, asked: Asked = None
) -> pandas.DataFrame:
    """Every finished game of the store `folder`, a row per part; the columns are those of `experiments.listing.row`.

    `games` are those that there are, by name; ours, where nothing else is said. Where only some columns are `asked`
    for, by name or in filters, rare metrics may be missing, which halves the time of thousands of games. Records that
    cannot be read are left out, named to `notify`, and listed in `frame.attrs["unreadable"]` as (path, reason).

    Raises UserError where there is no store.
    """
    import pandas

    from experiments.listing.index import FOLDER, read

    if not folder.is_dir():
        raise UserError(f"There is no store in {folder}; play a game first, or name another with --store FOLDER.")
    found = read(folder, known_games() if games is None else games, notify, short=asked is not None)
    parts = [pandas.DataFrame(values, columns=list(columns)) for columns, values in found.parts()]
    table = pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()
    if asked is not None and not {re.split("[!<>=]", each)[0].strip() for each in asked} <= {*table.columns}:
        return frame(folder, notify, games)  # with every metric
    for path, why in found.unreadable:
        removes = "" if why.endswith(FOLDER) else "; `python experiments/store.py prune --damaged` removes such files"
        notify(f"The record {path} is left out: {why}{removes}.")
    table.attrs["unreadable"] = [(str(path), why) for path, why in found.unreadable]
    return table


def record(path: Path | str) -> dict[str, Any]:
    """The record of one game by its file, verified; raises UserError where it is missing or damaged."""
    from storage.artifact import Damaged, read_content

    try:
        content = read_content(Path(path))
    except (Damaged, OSError) as error:
        raise UserError(f"The record {path} cannot be read ({error}); play its game again.") from error
    if not isinstance(content, dict):
        raise UserError(f"There is no record {path}; play its game again.")
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from storage.store import default_folder

    parser = Parser(
        prog="results.py", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="All finished games of a store, one row per game and part (of the request game: direction).",
        epilog="examples:\n  results.py attack=uncertainty 'seed<3'\n  results.py 'effect>0.2' --csv games.csv\n"
        "  results.py attack.norm_cap=0.7 --show attack seed auroc\n  results.py --columns",
    )  # fmt: skip
    parser.add_argument("filters", nargs="*", help="column=value[,value], column!=value, column<number, <=, >, >=")
    parser.add_argument("--store", type=place, default=default_folder(), help="the store's folder (%(default)s)")
    parser.add_argument("--show", nargs="+", action="extend", metavar="COLUMN", help="the columns to print")
    parser.add_argument("--csv", type=place, metavar="FILE", help="write every column of the rows to a CSV file")
    parser.add_argument("--limit", type=whole_number, default=40, help="rows that are printed; 0 is all (%(default)s)")
    parser.add_argument("--config-dir", type=folder, action="append", default=[], help="folder with games of your own")
    parser.add_argument("--columns", action="store_true", help="list the columns: what they are, and values")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    return ended(lambda: _results(parser.parse_intermixed_args(arguments)))


def _results(options: argparse.Namespace) -> None:
    if options.csv is not None and options.columns:
        raise UserError("--columns lists what there is, and --csv writes all of it; leave out one of the two.")
    make_importable(options.config_dir)
    games = known_games(options.config_dir, log.warning)
    asked = None if options.csv or options.columns else [*options.filters, *(options.show or ())]
    every = frame(options.store, games=games, asked=asked)
    if every.empty:
        raise UserError(f"The store {options.store} has no finished games; play some with experiments/run.py.")
    table = select(every, options.filters)
    if table.empty:
        log.warning(f"No game passes all of {' '.join(options.filters)}.")
    _show(table, options, games)


def _show(table: pandas.DataFrame, options: argparse.Namespace, games: Mapping[str, Game]) -> None:
    if options.csv is not None:
        from storage.records import write_atomic

        text = io.StringIO()
        table.to_csv(text, index=False)
        try:
            write_atomic(options.csv, text.getvalue().encode(errors="replace"))
        except OSError as error:
            raise UserError(f"{options.csv} cannot be written ({error.strerror}); name another with --csv.") from error
        print(f"{len(table)} rows of {len(table.columns)} columns: {options.csv}")
        return
    metrics = [metric for name in table["game"].unique() for metric in games[name].metrics()]
    if options.columns:
        helps = {metric.name: f"  {metric.help}" for metric in metrics}
        for name in table.columns:
            values = table[name].dropna().map(plain).unique()[:4]
            print(f"{printable(name):32} {', '.join(map(printable, values))}{helps.get(name, '')}")
        return
    usual = dict.fromkeys((*NAMING, *(each.name for each in metrics if {"sweep", "report"} <= each.shown)))
    wanted = list(dict.fromkeys(options.show or ())) or [name for name in usual if name in table.columns]
    for name in wanted:
        if name not in table.columns:
            raise UserError(no_column(table, name, "to show"))
    _print(table[wanted], options.limit)


def _print(table: pandas.DataFrame, limit: int) -> None:
    shown = table.head(limit) if limit else table
    heads = [Head(printable(name), shown[name].dtype.kind in "fi") for name in shown.columns]
    lines = [[_cell(value) for value in values] for values in shown.itertuples(index=False)]
    show(console(), heads, lines, keys=next((i for i, name in enumerate(shown.columns) if name not in NAMING), 0))
    rest = f"; the first {len(shown)} are shown (--limit 0 shows all, --csv FILE writes all)"
    print(f"{len(table)} rows{rest if len(shown) < len(table) else ''}.")


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.3f}" if isinstance(value, float) and value != int(value) else printable(plain(value))
