"""The games of a table: one cell per row and seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from data.errors import UserError
from data.naming import without_choices
from experiments.cli.options import CONF
from experiments.paper_table.specification import Overrides, TableRow, merged
from experiments.sweeps.cells import Cell, expand
from storage.records import canonical_json


def cells_of(
    rows: Sequence[TableRow], seeds: Sequence[int], further: Sequence[str], folders: Sequence[Path] = ()
) -> dict[tuple[str, int], Cell]:
    """The cell of every row and seed; rows that resolve to the same configuration share theirs.

    Args:
        rows: the rows, with their overrides.
        seeds: 0, 1, ...
        further: overrides for every row, after its own.
        folders: further folders to find options in.

    Raises:
        UserError: naming the row whose overrides do not fit conf/run.yaml.
    """
    complete = [dataclasses.replace(row, overrides=merged([*row.overrides, *further])) for row in rows]
    by_row: dict[str, list[Cell]] = {}
    for key, alike in together(complete):
        by_row |= _expanded(key, alike, len(seeds), folders)
    found: dict[tuple[str, int], Cell] = {}
    known: dict[str, Cell] = {}
    for row in rows:
        for cell in by_row[row.name]:
            seed = cell.config["seed"]
            named = dataclasses.replace(cell, name=f"{row.name},seed={seed}")
            found[row.name, seed] = known.setdefault(canonical_json(without_choices(cell.config)), named)
    return found


def together(rows: Sequence[TableRow]) -> Iterator[tuple[str, list[TableRow]]]:
    """Rows that differ in the value of one key alone, with this key: Hydra, which is slow, composes them once."""
    alike: dict[tuple[str, Overrides], list[TableRow]] = {}
    for row in rows:
        for text in row.overrides:
            if "." in (key := text.partition("=")[0]):
                alike.setdefault((key, tuple(t for t in row.overrides if t != text)), []).append(row)
    left = {row.name: row for row in rows}
    for (key, _), group in sorted(alike.items(), key=lambda item: -len(item[1])):
        if len(group) > 1 and all(row.name in left for row in group):
            for row in group:
                del left[row.name]
            yield key, group
    for row in left.values():
        yield "", [row]


def _expanded(key: str, rows: Sequence[TableRow], seeds: int, folders: Sequence[Path]) -> dict[str, list[Cell]]:
    """The cells of rows that differ in the value of `key` alone, by row and then by seed."""
    values = [text.partition("=")[2] for row in rows for text in row.overrides if text.startswith(f"{key}=")]
    rest = [text for text in rows[0].overrides if not text.startswith(f"{key}=")]
    cells: list[Cell] = []
    if len(rows) > 1:
        with suppress(Exception):  # one by one, to say which of them it is
            cells = expand([*rest, f"{key}={','.join(values)}", f"seed=range({seeds})"], CONF, "run", folders)
    if len(rows) == 1 or len(cells) != seeds * len(rows):  # or some of them are the same game
        return {row.name: _of_row(row, seeds, folders) for row in rows}
    return {row.name: cells[i * seeds : (i + 1) * seeds] for i, row in enumerate(rows)}


def _of_row(row: TableRow, seeds: int, folders: Sequence[Path]) -> list[Cell]:
    from experiments.cli.explain import sentence

    try:
        cells = expand([*row.overrides, f"seed=range({seeds})"], CONF, "run", folders)
    except Exception as error:
        text = sentence(error)
        if text is None:
            raise
        raise UserError(f"row {row.name}: {text}") from error
    if len(cells) != seeds:
        raise UserError(f"row {row.name}: it sweeps over values; make a row of each.")
    return cells
