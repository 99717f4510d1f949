"""A finished table for the terminal, as Markdown and as CSV; `latex.py` makes the LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from textwrap import fill

from experiments.cli.fitted import Head, console
from experiments.cli.fitted import show as fitted
from experiments.paper_table.content import VERDICT_HEADINGS, Content, verdict_cells

HEADING = 14  # characters of a line of a heading


def show(content: Content) -> None:
    """Print the table and its claims to standard output."""
    terminal = console()

    def drawn(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> None:
        heads = [Head(fill(heading, HEADING), number=i >= left) for i, heading in enumerate(headings)]
        fitted(terminal, heads, lines, keys=left, title=f"\n{title}")

    terminal.print(f"\n{content.specification.title}", style="bold", markup=False)
    left = len(content.specification.axes)
    for part, lines in content.sections.items():
        drawn(content.heading(part), content.headings, [content.cells(line) for line in lines], left)
    for text in content.footer():
        terminal.print(text, markup=False, soft_wrap=True)
    if content.beside:
        terminal.print("\nNumbers from elsewhere:", markup=False)
        for text in content.elsewhere():
            terminal.print(f"  {text}", markup=False, soft_wrap=True)
    for text in content.problems:
        terminal.print(f"Missing: {text}", markup=False, soft_wrap=True)
    if content.verdicts:
        drawn("Claims", VERDICT_HEADINGS, [verdict_cells(verdict) for verdict in content.verdicts], 3)
        for verdict in content.verdicts:
            terminal.print(f"{verdict.id}: {verdict.detail}.", markup=False, soft_wrap=True)
        for test in dict.fromkeys(verdict.test for verdict in content.verdicts):
            terminal.print(f"Test: {test}.", markup=False, soft_wrap=True)


def markdown(content: Content) -> str:
    """The table, what it shows, and its claims as Markdown."""
    parts = [f"# {content.specification.title}"]
    for part, lines in content.sections.items():
        parts.append(f"## {content.heading(part)}")
        parts.append(pipes(content.headings, [content.cells(line) for line in lines]))
    parts += content.footer()
    if content.beside:
        parts += ["Numbers from elsewhere:", "\n".join(f"- {text}" for text in content.elsewhere())]
    parts += [f"Missing: {text}" for text in content.problems]
    if content.verdicts:
        parts += ["## Claims", pipes(VERDICT_HEADINGS, [verdict_cells(verdict) for verdict in content.verdicts])]
        parts.append("\n".join(f"- {v.id}: {v.detail}. Test: {v.test}." for v in content.verdicts))
    parts.append(f"Made by `{content.command}`.")
    return "\n\n".join(parts) + "\n"


def pipes(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A pipe table of Markdown."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def comma_separated(content: Content) -> str:
    """One line per row and part; for every metric its mean, both ends of its interval, and how many values."""
    table = content.specification
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = [f"{c.metric}{end}" for c in table.columns for end in ("", "_low", "_high", "_seeds", "_n")]
    writer.writerow(["row", "part", *(axis.label for axis in table.axes), *metrics])
    for part, lines in content.sections.items():
        for line in lines:
            numbers = [x for n in line.numbers for x in (*map(_plain, (n.mean, n.low, n.high)), n.seeds, n.n)]
            writer.writerow([line.row.name, part, *line.row.labels, *numbers])
    return text.getvalue()


def _plain(value: float) -> str:
    return "" if value != value else repr(value)
