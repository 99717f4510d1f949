"""A finished table for the terminal, as Markdown and as CSV; `latex.py` makes the LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple
from textwrap import fill

from experiments.cli.fitted import Head, console
from experiments.cli.fitted import show as fitted
from experiments.paper_table.content import FINDING_HEADINGS, Content, finding_cells

HEADING = 14  # characters of a line of a heading


def show(content: Content) -> None:
    """Print the table and its claims to standard output."""
    terminal = console()

    def drawn(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> None:
        heads = [Head(fill(heading, HEADING), number=i >= left) for i, heading in enumerate(headings)]
        fitted(terminal, heads, lines, keys=left, title=f"\n{title}")

    terminal.print(f"\n{content.specification.title}", style="bold", markup=False)
    for part, rows in content.sections.items():
        lines = [content.cells(row) for row in rows]
        drawn(content.heading(part), content.headings, lines, len(content.specification.axes))
    said = content.footer()
    if content.beside:
        said += ["\nNumbers from elsewhere:", *(f"  {text}" for text in content.elsewhere())]
    said += [f"Missing: {text}" for text in content.problems]
    for text in said:
        terminal.print(text, markup=False, soft_wrap=True)
    if content.findings:
        drawn("Claims", FINDING_HEADINGS, [finding_cells(finding) for finding in content.findings], 3)
        tests = dict.fromkeys(f"Test: {finding.test}." for finding in content.findings)
        for text in (*(f"{finding.id}: {finding.detail}." for finding in content.findings), *tests):
            terminal.print(text, markup=False, soft_wrap=True)


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
    if content.findings:
        parts += ["## Claims", pipes(FINDING_HEADINGS, [finding_cells(finding) for finding in content.findings])]
        parts.append(
            "\n".join(f"- {finding.id}: {finding.detail}. Test: {finding.test}." for finding in content.findings)
        )
    parts.append(f"Made by `{content.command}`.")
    return "\n\n".join(parts) + "\n"


def pipes(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A pipe table of Markdown."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def comma_separated(content: Content) -> str:
    """One line per row and part; for every metric its mean, both ends of its interval, and how many values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = [f"{column.name}{end}" for column in content.columns for end in ("", "_low", "_high", "_seeds", "_n")]
    writer.writerow(["row", "part", *(axis.label for axis in content.specification.axes), *metrics])
    for part, lines in content.sections.items():
        for line in lines:
            numbers = [value for number in line.numbers for value in astuple(number)]
            plain = ["" if value != value else repr(value) for value in numbers]  # NaN is not defined
            writer.writerow([line.row.name, part, *line.row.labels, *plain])
    return text.getvalue()
