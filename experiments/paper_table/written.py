"""The files of a finished table: Markdown, CSV, LaTeX and JSON, each whole or not at all."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from data.errors import UserError
from experiments.paper_table.content import Content
from experiments.paper_table.latex import latex
from experiments.paper_table.render import comma_separated, markdown
from storage.records import checked, jsonable, with_nulls, write_atomic, write_json_atomic

SCHEMA = 2


def check_output(folder: Path) -> None:
    """Make sure, before hours of play, that the table can be written in `folder`.

    Raises:
        UserError: when it cannot.
    """
    probe = folder / "table.check"
    try:
        write_atomic(probe, b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"The table cannot be written in {folder} ({error.strerror}); set output=FOLDER.") from error


def write(content: Content, name: str, seeds: int, folder: Path) -> None:
    """Write `table.md`, `.csv`, `.tex` and `.json` of the table `name` into `folder`.

    Raises:
        UserError: when the folder cannot be written; the games are in the store all the same.
    """
    table, text = content.specification, markdown(content)
    rows = [
        {
            "row": finished.row.name,
            "labels": finished.row.labels,
            "part": part,
            "n": finished.n,
            "values": {
                column.name: dataclasses.asdict(number)
                for column, number in zip(content.columns, finished.numbers, strict=True)
            },
        }
        for part, section in content.sections.items()
        for finished in section
    ]
    record = {
        "schema": SCHEMA, "name": name, "title": table.title, "size": content.size, "command": content.command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "seeds": seeds, "source": table.source, "rows": rows,
        "claims": [dataclasses.asdict(finding) for finding in content.findings], "markdown": text,
        "provenance": content.elsewhere(), "missing": list(content.problems),
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
