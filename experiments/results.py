"""All finished games of a store as one table: `python experiments/results.py attack=uncertainty 'seed<3'`."""

from __future__ import annotations

import argparse
import difflib
import logging
import operator
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # `python experiments/results.py` puts experiments/ on the path instead of the root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import UserError

if TYPE_CHECKING:
    import pandas

FILTER = re.compile(r"(?P<column>[\w.\-]+)\s*(?P<sign>!=|<=|>=|=|<|>)\s*(?P<value>.*)", re.DOTALL)
ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip
SHOWN = (
    "attack", "attack.access", "unlearning", "defense", "data", "mode", "direction", "seed", "effect",
    "effect_defended", "kept_after", "success_after", "auroc", "seconds",
)  # fmt: skip


def _warn(text: str) -> None:
    logging.getLogger(__name__).warning(text)


def frame(folder: Path, notify: Callable[[str], None] = _warn) -> pandas.DataFrame:
    """Every finished game of the store `folder`, one row per direction; the columns are those of `experiments.row`.

    Records that cannot be read are left out, named to `notify`, and listed in `frame.attrs["unreadable"]` as pairs of
    path and reason. Raises UserError where there is no store.
    """
    import orjson
    import pandas

    from experiments.index import read

    if not folder.is_dir():
        raise UserError(f"There is no store in {folder}; play a game first, or name another with --store FOLDER.")
    found = read(folder, notify)
    for path, why in found.unreadable:
        notify(
            f"The record {path} is left out: {why}; `python experiments/store.py prune --damaged` removes such files."
        )
    parts = [
        pandas.DataFrame(orjson.loads(f"[{','.join(contents)}]"), columns=orjson.loads(columns))
        for columns, contents in found.parts
    ]
    table = pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()
    table.attrs["unreadable"] = [(str(path), why) for path, why in found.unreadable]
    return table


def select(table: pandas.DataFrame, filters: Sequence[str]) -> pandas.DataFrame:
    """The rows that pass every filter: `column=value[,value]`, `column!=value`, or `column<number` (`<=`, `>`, `>=`).

    Raises UserError for a filter that cannot be read, or a column that does not exist.
    """
    for text in filters:
        match = FILTER.fullmatch(text.strip())
        if match is None:
            raise UserError(f"The filter {text!r} cannot be read; write column=value, column!=value or column<number.")
        table = table[_passes(table, match["column"], match["sign"], match["value"].strip(), text)]
    return table


def _passes(table: pandas.DataFrame, column: str, sign: str, value: str, text: str) -> Any:
    import pandas

    if column not in table.columns:
        near = difflib.get_close_matches(column, [str(name) for name in table.columns], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`--columns` lists them."
        raise UserError(f"There is no column {column!r} to filter by; {hint}")
    values = table[column]
    if sign in ORDER:
        try:
            bound = float(value)
        except ValueError as error:
            raise UserError(f"The filter {text!r} compares with {value!r}, which is no number.") from error
        return ORDER[sign](pandas.to_numeric(values, errors="coerce"), bound)
    wanted = {_plain(part.strip()) for part in value.split(",")}
    hit = values.map(_plain).isin(wanted)
    return ~hit if sign == "!=" else hit


def _plain(value: Any) -> str:
    """A value as it is typed: `true`, `null`, and 1 for 1.0."""
    if value is None or value != value:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return "null" if value == "None" else str(value).lower() if value in ("True", "False") else str(value)


def record(path: Path | str) -> dict[str, Any]:
    """The record of one game by its file, verified.

    Raises UserError where it is missing or damaged.
    """
    from experiments.artifact import Damaged, read_content

    try:
        content = read_content(Path(path))
    except (Damaged, OSError) as error:
        raise UserError(f"The record {path} cannot be read ({error}); play its game again.") from error
    if not isinstance(content, dict):
        raise UserError(f"There is no record {path}; play its game again.")
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from experiments.store import default_folder

    parser = argparse.ArgumentParser(
        prog="results.py", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="All finished games of a store, one row per game and direction.",
        epilog="examples:\n  results.py attack=uncertainty 'seed<3'\n  results.py 'effect>0.2' --csv games.csv\n"
        "  results.py attack.norm_cap=0.7 --show attack seed auroc\n  results.py --columns",
    )  # fmt: skip
    parser.add_argument("filters", nargs="*", help="column=value[,value], column!=value, column<number, <=, >, >=")
    parser.add_argument("--store", type=Path, default=default_folder(), help="the store's folder (%(default)s)")
    parser.add_argument("--show", nargs="+", metavar="COLUMN", help="the columns to print")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every column of the rows to a CSV file")
    parser.add_argument("--limit", type=int, default=40, help="print at most this many rows; 0 is all (%(default)s)")
    parser.add_argument("--columns", action="store_true", help="list the columns and their first values")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        table = select(frame(options.store), options.filters)
        _show(table, options)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _show(table: pandas.DataFrame, options: argparse.Namespace) -> None:
    if options.csv is not None:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.csv, index=False)
        print(f"{len(table)} rows of {len(table.columns)} columns: {options.csv}")
        return
    if options.columns:
        for name in table.columns:
            values = table[name].dropna().map(_plain).unique()[:4]
            print(f"{name:32} {', '.join(values)}")
        return
    wanted = options.show or [name for name in SHOWN if name in table.columns]
    for name in wanted:
        if name not in table.columns:
            raise UserError(f"There is no column {name!r} to show; `--columns` lists them.")
    _print(table[wanted] if len(table) else table, options.limit)


def _print(table: pandas.DataFrame, limit: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = table.head(limit) if limit else table
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    drawn = Table(box=box.SIMPLE)
    for name in shown.columns:
        drawn.add_column(str(name), justify="right" if shown[name].dtype.kind in "fi" else "left", overflow="fold")
    for values in shown.itertuples(index=False):
        drawn.add_row(*(_cell(value) for value in values))
    console.print(drawn)
    rest = (
        f"; the first {len(shown)} are shown (--limit 0 shows all, --csv FILE writes all)"
        if len(shown) < len(table)
        else ""
    )
    print(f"{len(table)} rows{rest}.")


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.3f}" if isinstance(value, float) and value != int(value) else _plain(value)


if __name__ == "__main__":
    sys.exit(main())
