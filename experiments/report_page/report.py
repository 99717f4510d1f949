"""Finished games as one HTML page: `python experiments/report.py attack=uncertainty 'seed<3'`; it needs no network."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import UserError
from data.machine import DISTRIBUTION, toolkit_version, versions
from experiments.cli.script import Parser, ended, folder, place, whole_number
from storage.store import default_folder

TABLES = Path("outputs/tables")
EXAMPLES = """\
filters are those of experiments/results.py, and all must hold:
  column=value[,value]   column!=value   column<number   (also <=, >, >=)

examples:
  report.py                                         every game of the store
  report.py data=digits attack=uncertainty,random   some data, some attacks
  report.py 'seed<3' defense.score=S1 --figures 12  with the figures of 12 games
  report.py --output paper.html --title 'Attacks on digits'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 after a mistake of the user's, 130 after Ctrl-C."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    made_by = shlex.join(["python", "experiments/report.py", *typed])
    return ended(lambda: _report(_parser().parse_intermixed_args(typed), made_by))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="report.py", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES,
        description="Write one HTML page about the finished games of a store: claims with their verdicts, a heat map "
        "of\nattacks and procedures, a table to sort and filter, figures, and the command that plays each cell again.",
    )  # fmt: skip
    add = parser.add_argument
    add("filters", nargs="*", metavar="FILTER", help="only these games, such as attack=uncertainty")
    add("--store", type=place, default=default_folder(), metavar="DIR", help="its games (default: %(default)s)")
    add("--tables", type=place, default=TABLES, metavar="DIR", help="claims of tables.py (default: %(default)s)")
    add("--output", type=place, default=Path("report.html"), metavar="FILE", help="the page (default: %(default)s)")
    figures = "games with figures, one of each cell first (%(default)s)"
    add("--figures", type=whole_number, default=4, metavar="N", help=figures)
    add("--figure-megabytes", type=_size, default=8.0, metavar="MB", help="room that figures may take (%(default)s)")
    add("--title", default="Unlearning games", help="the heading of the page")
    add("--config-dir", type=folder, action="append", default=[], metavar="DIR", help="folder with games of your own")
    add("--version", action="version", version=f"{DISTRIBUTION} {toolkit_version()}")
    return parser


def _size(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 15:  # the page with everything else stays below 20 MB
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 15")
    return number


def _report(options: argparse.Namespace, made_by: str) -> None:
    from experiments.cli.arguments import make_importable
    from experiments.cli.roles import known_games
    from experiments.listing import results
    from experiments.report_page.claims import read_tables
    from experiments.report_page.markup import count
    from experiments.report_page.page import Options, build
    from storage.records import write_atomic

    make_importable(options.config_dir)
    remarks: list[str] = []
    known = known_games(options.config_dir, remarks.append)
    every = results.frame(options.store, lambda _: None, known, options.filters)  # what is unreadable comes with it
    remarks += [f"The record {path} was left out: {why}." for path, why in every.attrs["unreadable"]]
    if every.empty:
        damaged = f" ({len(remarks)} damaged records)" if remarks else ""
        raise UserError(f"The store {options.store} has no finished games{damaged}; play some with experiments/run.py.")
    games = results.select(every, options.filters)
    if games.empty:
        raise UserError(
            f"No game of {options.store} passes {shlex.join(options.filters)}; loosen the filter, or see the "
            "values that there are with experiments/results.py --columns."
        )
    tables, unread = read_tables(options.tables)
    remarks += unread
    folder = options.output.resolve().parent
    page = build(
        games, known, results.record, tables, _overrides,
        Options(
            title=options.title, filters=options.filters, figures=options.figures, folder=folder,
            figure_bytes=round(options.figure_megabytes * 1e6), store=str(options.store), made_by=made_by,
            versions=versions(), remarks=remarks,
        ),
    )  # fmt: skip
    content = page.html.encode()
    try:
        write_atomic(options.output, content)
    except OSError as error:
        raise UserError(
            f"The page cannot be written to {options.output} ({error.strerror}); name another file with --output FILE."
        ) from error
    for sentence in (*remarks, *page.left_out):
        print(sentence, file=sys.stderr)
    print(f"{options.output}: {count(page.games, 'game')}, {len(content) / 1e6:.1f} MB")


def _overrides(path: str) -> list[str]:
    """The overrides that play the game of the record at `path` again, without its seed."""
    from experiments.cli.reproduce import overrides, typed
    from experiments.listing.results import record

    content = record(path)
    try:
        return list(overrides(typed(content)))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"The configuration in the record {path} is none of this version ({type(error).__name__}: {error}); leave "
            "its game out with a filter."
        ) from error
