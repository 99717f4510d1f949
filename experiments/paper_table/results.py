"""The numbers of all games of a table, read once: by row, seed, part of the game, metric and unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.paper_table.specification import Specification
from games.game import Game, Values, metric_of

if TYPE_CHECKING:
    from experiments.paper_table.games import Cells
    from storage.store import Store

BySeed = Mapping[int, Values]
ByPart = Mapping[str, Mapping[str, Values]]  # and by metric


@dataclass(frozen=True)
class Results:
    """What was measured at a size: of every row, by seed, part and metric, and the parts with their `labels`.

    Games that could not be played are not there.
    """

    games: Mapping[str, Mapping[int, ByPart]]
    labels: Mapping[str, str]
    seeds: int
    size: str

    def parts(self, row: str) -> list[str]:
        """The parts of a row; none where no game of it could be played."""
        return list(dict.fromkeys(part for game in self.games.get(row, {}).values() for part in game))

    def present(self, row: str, metric: str, part: str | None) -> BySeed:
        """What there is, by seed: nothing for games that could not be played; without `part`, of the only one."""
        there = self.parts(row)
        name = there[0] if part is None and len(there) == 1 else part or ""
        return {seed: game[name][metric] for seed, game in self.games.get(row, {}).items() if name in game}

    def complete(self, row: str, metric: str, part: str | None) -> BySeed | str:
        """The same for a claim, which needs every game; otherwise the reason why there is none."""
        if row not in self.games:
            return f"the row {row} is not played at the size {self.size}"
        if missing := self.seeds - len(self.games[row]):
            return f"{missing} of {self.seeds} games of the row {row} could not be played"
        there = self.parts(row)
        if part is None and len(there) > 1:
            return f"the row {row} has the parts {' and '.join(there)}, and no part is named"
        if part is not None and part not in there:
            return f"the row {row} has no part {part}"
        return self.present(row, metric, part)


def measure_all(
    table: Specification, cells: Cells, files: Mapping[str, Path], store: Store, size: str, game: Game
) -> Results:
    """Measure everything that columns, claims and numbers from elsewhere need in the games of a table at a `size`.

    `files` are the records in the `store` of the cells that can be played, by the cell's name.
    """
    needed = {game.headline, *(column.metric for column in table.columns), *(each.metric for each in table.beside)}
    needed |= {metric for claim in table.claims for _, metric, _ in claim.sides}
    metrics = [metric_of(game, name) for name in needed]
    played: dict[str, ByPart] = {}
    labels: dict[str, str] = {}
    for name in dict.fromkeys(cell.name for cell in cells.values()):
        record = store.find_record(files[name]) if name in files else None
        if record is not None:
            parts = game.parts(record)
            labels |= {part.name: part.label for part in parts}
            played[name] = {part.name: {metric.name: metric.values(part) for metric in metrics} for part in parts}
    games: dict[str, dict[int, ByPart]] = {row: {} for row, _ in cells}
    for (row, seed), cell in cells.items():
        if cell.name in played:
            games[row][seed] = played[cell.name]
    return Results(games, labels, len({seed for _, seed in cells}), size)
