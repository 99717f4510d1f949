"""Tables as wide as the terminal: what does not fit beside each other stands below each other, and nothing is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE = 10_000  # columns where there is no terminal to fit
HALF = 0.5  # of the terminal, which the columns that say what a line is may take in every part


@dataclass(frozen=True)
class Head:
    """The heading of a column, and whether its cells are numbers."""

    text: str
    number: bool = True


def console() -> Console:
    """The terminal, or a pipe to which whole lines go."""
    from rich.console import Console

    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=PIPE)


def show(
    console: Console, heads: Sequence[Head], rows: Sequence[Sequence[str]], keys: int = 0, title: str | None = None
) -> None:
    """Print `rows` of cells, in several tables where one would be wider than the console.

    The first `keys` columns say what a line is, and begin every table; where they take too much room for that, the
    lines are numbered, and their numbers do.
    """
    from rich.text import Text

    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    every = range(len(heads))
    if _fits(console, heads, rows, every, 1.0):
        console.print(_table(heads, rows, every))
        return
    first = list(range(keys))
    if not keys or not _fits(console, heads, rows, first, HALF):
        heads, rows = [Head("#"), *heads], [[str(i), *row] for i, row in enumerate(rows, start=1)]
        first = [0]
    groups = [list(first)]
    for column in range(len(first), len(heads)):
        if len(groups[-1]) > len(first) and not _fits(console, heads, rows, [*groups[-1], column], 1.0):
            groups.append(list(first))
        groups[-1].append(column)
    for group in groups:
        console.print(_table(heads, rows, group))


def _fits(
    console: Console, heads: Sequence[Head], rows: Sequence[Sequence[str]], columns: Sequence[int], share: float
) -> bool:
    unlimited = console.options.update(width=PIPE)
    return console.measure(_table(heads, rows, columns), options=unlimited).maximum <= share * console.width


def _table(heads: Sequence[Head], rows: Sequence[Sequence[str]], columns: Sequence[int]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAVY, padding=(0, 1, 0, 0), pad_edge=False)
    for i in columns:
        table.add_column(Text(heads[i].text), justify="right" if heads[i].number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[i]) for i in columns))
    return table
