"""Tables as wide as the terminal: what does not fit beside each other stands below each other, and nothing is cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE = 10_000  # columns where there is no terminal to fit
HALF = 0.5  # of the terminal, which the columns that say what a line is may take in every part


@dataclass(frozen=True)
class Head:
    """The heading of a column, and whether its cells are numbers."""

    text: str
    number: bool = True


def console() -> Console:
    """The terminal, or a pipe to which whole lines go."""
    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=PIPE)


def show(
    console: Console, heads: Sequence[Head], rows: Sequence[Sequence[str]], keys: int = 0, title: str | None = None
) -> None:
    """Print `rows` of cells, in several tables where one would be wider than the console.

    The first `keys` columns say what a line is, and begin every table; where they take too much room for that, the
    lines are numbered, and their numbers do.
    """

    def table(columns: Sequence[int]) -> Table:
        made = Table(box=box.SIMPLE_HEAVY, padding=(0, 1, 0, 0), pad_edge=False)
        for i in columns:
            made.add_column(Text(heads[i].text), justify="right" if heads[i].number else "left", overflow="fold")
        for row in rows:
            made.add_row(*(Text(row[i]) for i in columns))
        return made

    def width(columns: Sequence[int]) -> int:
        return console.measure(table(columns), options=console.options.update(width=PIPE)).maximum

    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    heads = [Head("#"), *heads]
    rows = [[str(number), *row] for number, row in enumerate(rows, start=1)]
    groups = [[*range(1, len(heads))]]
    if width(groups[0]) > console.width:
        first = [*range(1, keys + 1)]
        if not keys or width(first) > HALF * console.width:
            first = [0]
        groups = [first]
        for column in range(first[-1] + 1, len(heads)):
            if groups[-1] != first and width([*groups[-1], column]) > console.width:
                groups.append(first)
            groups[-1] = [*groups[-1], column]
    for group in groups:
        console.print(table(group))
