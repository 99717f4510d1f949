"""The numbers of all games of a table, read once: by row, metric, direction, seed and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.paper_table.specification import Row, Specification
from experiments.sweeps.cells import Cell
from games.request.metrics import known
from games.request.part import Values, game

if TYPE_CHECKING:
    from experiments.storage.store import Store

Key = tuple[str, str, str]  # row, metric, direction


@dataclass(frozen=True)
class Results:
    """What was measured: `values` by row, metric and direction, then by seed; `directions` that a row plays.

    `missing` counts, by row, the games that could not be played, of `seeds`.
    """

    values: Mapping[Key, Mapping[int, Values]]
    directions: Mapping[str, tuple[str, ...]]
    missing: Mapping[str, int]
    seeds: int
    size: str

    def plays(self, row: Row, direction: str) -> bool:
        """Whether the row has targets of this direction."""
        return direction in self.directions[row.name]

    def present(self, row: str, metric: str, direction: str) -> Mapping[int, Values]:
        """What there is, by seed: nothing for games that could not be played."""
        return self.values.get((row, metric, direction), {})

    def complete(self, row: str, metric: str, direction: str) -> Mapping[int, Values] | str:
        """The same for a claim, which needs every game; otherwise the reason why there is none."""
        if row not in self.directions:
            return f"the row {row} is not played at the size {self.size}"
        if direction not in self.directions[row]:
            return f"the row {row} has no targets of the direction {direction}"
        if self.missing[row]:
            return f"{self.missing[row]} of {self.seeds} games of the row {row} could not be played"
        return self.present(row, metric, direction)


def measure_all(
    table: Specification, rows: Sequence[Row], cells: Mapping[tuple[str, int], Cell], files: Mapping[str, Path],
    store: Store, size: str,
) -> Results:  # fmt: skip
    """Measure everything that columns, claims and numbers from elsewhere need in the games of `rows`.

    Args:
        table: says what is needed.
        rows: the rows of the size.
        cells: the cell of every row and seed.
        files: the record of every cell that can be played, by the cell's name.
        store: where the records are.
        size: the name of the size.
    """
    needed = {"kept_after", *(column.metric for column in table.columns), *(each.metric for each in table.beside)}
    needed |= {metric for claim in table.claims for _, metric, _ in claim.sides}
    by_cell: dict[str, dict[tuple[str, str], Values]] = {}
    for cell in {cell.name: cell for cell in cells.values()}.values():
        record = _record(files.get(cell.name), store)
        if record is not None:
            by_cell[cell.name] = {
                (metric, direction): known()[metric](game(record, direction))
                for direction in dict.fromkeys(record["targets"]["direction"])
                for metric in needed
            }
    values: dict[Key, dict[int, Values]] = {}
    missing = {row.name: 0 for row in rows}
    for (row, seed), cell in cells.items():
        missing[row] += cell.name not in by_cell
        for (metric, direction), found in by_cell.get(cell.name, {}).items():
            values.setdefault((row, metric, direction), {})[seed] = found
    directions = {row: _directions(cell.config) for (row, _), cell in cells.items()}
    return Results(values, directions, missing, len({seed for _, seed in cells}), size)


def _directions(config: Mapping[str, Any]) -> tuple[str, ...]:
    chosen = config["targets"]["direction"]
    return ("over", "under") if chosen == "both" else (chosen,)


def _record(file: Path | None, store: Store) -> dict[str, Any] | None:
    """The record of a game, verified."""
    return None if file is None else store.find_record(file)
