"""A finished table for the terminal, and as files: Markdown, CSV, JSON, and the LaTeX that `latex.py` makes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from pathlib import Path
from textwrap import fill

from data import fitted
from data.errors import UserError
from experiments.paper_table.content import FINDING_HEADINGS, Content, finding_cells
from experiments.paper_table.latex import latex
from storage.records import checked, jsonable, with_nulls, write_atomic, write_json_atomic

SCHEMA = 2  # of `table.json`
HEADING = 14  # characters of a line of a heading


def show(content: Content) -> None:
    """Print the table and its claims to standard output."""
    terminal = fitted.console()

    def drawn(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> None:
        heads = [fitted.Head(fill(heading, HEADING), number=i >= left) for i, heading in enumerate(headings)]
        fitted.show(terminal, heads, lines, keys=left, title=f"\n{title}")

    terminal.print(f"\n{content.specification.title}", style="bold")
    for heading, lines in content.lines():
        drawn(heading, content.headings, lines, len(content.specification.axes))
    said = content.footer()
    if content.elsewhere:
        said += ["\nNumbers from elsewhere:", *(f"  {text}" for text in content.elsewhere)]
    said += [f"Missing: {text}" for text in content.problems]
    terminal.print("\n".join(said), soft_wrap=True)
    if content.findings:
        drawn("Claims", FINDING_HEADINGS, [finding_cells(finding) for finding in content.findings], 3)
        tests = dict.fromkeys(f"Test: {finding.test}." for finding in content.findings)
        said = [*(f"{finding.id}: {finding.detail}." for finding in content.findings), *tests]
        terminal.print("\n".join(said), soft_wrap=True)


def markdown(content: Content) -> str:
    """The table, what it shows, and its claims as Markdown."""
    parts = [f"# {content.specification.title}"]
    for heading, lines in content.lines():
        parts += [f"## {heading}", pipes(content.headings, lines)]
    parts += content.footer()
    if content.elsewhere:
        parts += ["Numbers from elsewhere:", "\n".join(f"- {text}" for text in content.elsewhere)]
    parts += [f"Missing: {text}" for text in content.problems]
    if content.findings:
        parts += ["## Claims", pipes(FINDING_HEADINGS, [finding_cells(finding) for finding in content.findings])]
        details = [f"- {finding.id}: {finding.detail}. Test: {finding.test}." for finding in content.findings]
        parts.append("\n".join(details))
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


def check_output(folder: Path) -> None:
    """Make sure, before hours of play, that the table can be written in `folder`; raises UserError when it cannot."""
    probe = folder / "table.check"
    try:
        write_atomic(probe, b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"The table cannot be written in {folder} ({error.strerror}); set output=FOLDER.") from error


def write(content: Content, name: str, seeds: int, folder: Path) -> None:
    """Write `table.md`, `.csv`, `.tex` and `.json` of the table `name` into `folder`.

    Raises UserError when the folder cannot be written; the games are in the store all the same.
    """
    table, text, rows = content.specification, markdown(content), []
    for part, section in content.sections.items():
        for finished in section:
            numbers = zip(content.columns, finished.numbers, strict=True)
            values = {column.name: asdict(number) for column, number in numbers}
            row = {"row": finished.row.name, "labels": finished.row.labels, "part": part, "n": finished.n}
            rows.append({**row, "values": values})
    record = {
        "schema": SCHEMA, "name": name, "title": table.title, "size": content.size, "command": content.command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "seeds": seeds, "source": table.source, "rows": rows,
        "claims": [asdict(finding) for finding in content.findings], "markdown": text,
        "provenance": content.elsewhere, "missing": content.problems,
    }  # fmt: skip
    try:
        write_atomic(folder / "table.md", text.encode())
        write_atomic(folder / "table.csv", comma_separated(content).encode())
        write_atomic(folder / "table.tex", latex(content, name).encode())
        write_json_atomic(folder / "table.json", checked(with_nulls(jsonable(record))))
    except OSError as error:
        raise UserError(
            f"The table cannot be written in {folder} ({error.strerror}); what was played is kept in the store: "
            "make room, or set output=FOLDER, and start the same command again."
        ) from error
