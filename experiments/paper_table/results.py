"""The numbers of all games of a table, read once: by row, metric, direction, seed and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.paper_table.specification import Row, Specification
from experiments.sweeps.cells import Cell
from games.game import Game, Values, metric_of

if TYPE_CHECKING:
    from experiments.storage.store import Store

Key = tuple[str, str, str]  # row, metric, part


@dataclass(frozen=True)
class Results:
    """What was measured: `values` by row, metric and part, then by seed; the `parts` of each row, with their labels.

    `missing` counts, by row, the games that could not be played, of `seeds`.
    """

    values: Mapping[Key, Mapping[int, Values]]
    parts: Mapping[str, Mapping[str, str]]
    missing: Mapping[str, int]
    seeds: int
    size: str

    @property
    def labels(self) -> dict[str, str]:
        """The parts of all rows, with their labels."""
        return {name: label for parts in self.parts.values() for name, label in parts.items()}

    def present(self, row: str, metric: str, part: str) -> Mapping[int, Values]:
        """What there is, by seed: nothing for games that could not be played."""
        return self.values.get((row, metric, part), {})

    def complete(self, row: str, metric: str, part: str) -> Mapping[int, Values] | str:
        """The same for a claim, which needs every game; otherwise the reason why there is none."""
        if row not in self.parts:
            return f"the row {row} is not played at the size {self.size}"
        if self.missing[row]:
            return f"{self.missing[row]} of {self.seeds} games of the row {row} could not be played"
        if part not in self.parts[row]:
            return f"the row {row} has no part {part}"
        return self.present(row, metric, part)


def measure_all(
    table: Specification, rows: Sequence[Row], cells: Mapping[tuple[str, int], Cell], files: Mapping[str, Path],
    store: Store, size: str, game: Game,
) -> Results:  # fmt: skip
    """Measure everything that columns, claims and numbers from elsewhere need in the games of `rows`.

    Args:
        table: says what is needed.
        rows: the rows of the size.
        cells: the cell of every row and seed.
        files: the record of every cell that can be played, by the cell's name.
        store: where the records are.
        size: the name of the size.
        game: the game that the table is about.
    """
    needed = {game.headline, *(column.metric for column in table.columns), *(each.metric for each in table.beside)}
    needed |= {metric for claim in table.claims for _, metric, _ in claim.sides}
    by_cell: dict[str, dict[tuple[str, str], Values]] = {}
    labels: dict[str, dict[str, str]] = {}
    for cell in {cell.name: cell for cell in cells.values()}.values():
        record = _record(files.get(cell.name), store)
        if record is not None:
            parts = game.parts(record)
            labels[cell.name] = {part.name: part.label for part in parts}
            by_cell[cell.name] = {
                (metric, part.name): metric_of(game, metric).values(part) for part in parts for metric in needed
            }
    values: dict[Key, dict[int, Values]] = {}
    missing = {row.name: 0 for row in rows}
    for (row, seed), cell in cells.items():
        missing[row] += cell.name not in by_cell
        for (metric, part), found in by_cell.get(cell.name, {}).items():
            values.setdefault((row, metric, part), {})[seed] = found
    by_row: dict[str, dict[str, str]] = {row.name: {} for row in rows}
    for (row, _), cell in cells.items():
        by_row[row] |= labels.get(cell.name, {})
    return Results(values, by_row, missing, len({seed for _, seed in cells}), size)


def _record(file: Path | None, store: Store) -> dict[str, Any] | None:
    """The record of a game, verified."""
    return None if file is None else store.find_record(file)
