"""The games of a table: one cell per row and seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from data.errors import UserError
from data.naming import without_choices
from experiments.cli.options import CONF
from experiments.paper_table.specification import Overrides, TableRow, merged
from experiments.sweeps.cells import Cell, expand
from storage.records import canonical_json

Cells = Mapping[tuple[str, int], Cell]  # by row and seed
Folders = Sequence[Path]

OWN = {"seed": "seeds=NUMBER", "repetitions": "seeds=NUMBER", "dry_run": "dry_run=true"}  # what a table sets itself


def cells_of(rows: Sequence[TableRow], seeds: Sequence[int], further: Sequence[str], folders: Folders = ()) -> Cells:
    """The cell of every row and seed 0, 1, ...; rows that resolve to the same configuration share theirs.

    `further` are overrides for every row, after its own, `folders` further folders to find options in. Raises UserError
    naming the row whose overrides do not fit conf/run.yaml.
    """
    complete = [dataclasses.replace(row, overrides=merged([*row.overrides, *further])) for row in rows]
    for row in complete:
        for key in {text.partition("=")[0].lstrip("+~") for text in row.overrides} & OWN.keys():
            raise UserError(f"row {row.name}: {key} is not set for single rows; write {OWN[key]} for the table.")
    by_row: dict[str, list[Cell]] = {}
    for overrides, alike in together(complete):
        by_row |= _expanded(overrides, alike, len(seeds), folders)
    found: dict[tuple[str, int], Cell] = {}
    known: dict[str, Cell] = {}
    for row in rows:
        for cell in by_row[row.name]:
            seed = cell.config["seed"]
            named = dataclasses.replace(cell, name=f"{row.name},seed={seed}")
            found[row.name, seed] = known.setdefault(canonical_json(without_choices(cell.config)), named)
    return found


def together(rows: Sequence[TableRow]) -> Iterator[tuple[Overrides, list[TableRow]]]:
    """Rows that differ in the value of one key alone, with overrides that sweep over it: Hydra is slow to compose."""
    alike: dict[tuple[str, Overrides], list[tuple[str, TableRow]]] = {}  # by the key and all other overrides
    for row in rows:
        for text in row.overrides:
            key, _, value = text.partition("=")
            if "." in key:
                alike.setdefault((key, tuple(t for t in row.overrides if t != text)), []).append((value, row))
    left = {row.name: row for row in rows}
    for (key, rest), found in sorted(alike.items(), key=lambda item: -len(item[1])):
        values, group = zip(*found, strict=True)
        if len(group) > 1 and all(row.name in left for row in group):
            for row in group:
                del left[row.name]
            yield (*rest, f"{key}={','.join(values)}"), list(group)
    for row in left.values():
        yield row.overrides, [row]


def _expanded(overrides: Overrides, rows: Sequence[TableRow], seeds: int, folders: Folders) -> dict[str, list[Cell]]:
    """The cells of rows that go together, by row and then by seed."""
    if len(rows) > 1:
        with suppress(Exception):  # one by one, to say which of them it is
            cells = expand([*overrides, f"seed=range({seeds})"], CONF, "run", folders)
            if len(cells) == seeds * len(rows):  # else some of them are the same game
                return {row.name: cells[i * seeds : (i + 1) * seeds] for i, row in enumerate(rows)}
    return {row.name: _of_row(row, seeds, folders) for row in rows}


def _of_row(row: TableRow, seeds: int, folders: Folders) -> list[Cell]:
    from experiments.cli.explain import sentence

    try:
        cells = expand([*row.overrides, f"seed=range({seeds})"], CONF, "run", folders)
    except Exception as error:
        text = sentence(error, in_game=False)  # composing is before all games
        if text is None:
            raise
        raise UserError(f"row {row.name}: {text}") from error
    if len(cells) != seeds:
        raise UserError(f"row {row.name}: it sweeps over values; make a row of each.")
    return cells
