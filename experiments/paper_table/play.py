"""Make a table: play what is missing, measure, test the claims, print and write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.cli.roles import game_of
from experiments.paper_table.checking import check_metrics, specification
from experiments.paper_table.games import cells_of
from experiments.paper_table.specification import Specification, TableRow
from experiments.paper_table.typed import quoted
from experiments.sweeps.cells import Cell
from games.game import Game, metric_of

if TYPE_CHECKING:
    from experiments.paper_table.content import Content
    from experiments.sweeps.launchers.launcher import Outcome
    from experiments.sweeps.sweep import Plan
    from storage.store import Store


@dataclass(frozen=True)
class TableRequest:
    """What was asked for: the table `name`, its size and seeds, and where things go.

    `run` are further overrides of every game, `folders` those of `--config-dir`; cells leave their logs in `work`.
    """

    name: str
    size: str
    seeds: int | None
    run: tuple[str, ...]
    store: Path | None
    output: Path
    work: Path
    folders: tuple[Path, ...]
    dry_run: bool
    command: str


@dataclass(frozen=True)
class PlannedTable:
    """A table before it is played: its rows and seeds at a size, the game that it is about, a cell for each game."""

    asked: TableRequest
    specification: Specification
    rows: tuple[TableRow, ...]
    seeds: int
    cells: Mapping[tuple[str, int], Cell]
    game: Game

    @property
    def unique(self) -> list[Cell]:
        """The cells; rows with the same configuration share theirs."""
        return list({cell.name: cell for cell in self.cells.values()}.values())


def make(content: Mapping[str, Any], asked: TableRequest, launcher_node: Mapping[str, Any]) -> int:
    """Make the table whose YAML says `content`; returns the exit code: 0, or 1 when a game could not be played.

    Raises:
        UserError: for a mistake in the table or the request; nothing was played then.
    """
    from experiments.sweeps.command import common_store, launcher_of, show_failures, show_plan

    planned = plan(content, asked)
    store, launcher = common_store(planned.unique), launcher_of(launcher_node)
    from data.machine import use_threads
    from experiments.paper_table.render import show
    from experiments.paper_table.written import check_output, write
    from experiments.sweeps import sweep  # brings torch: mistakes in the table answer without it

    use_threads("auto")  # one: the sums here are small
    todo = sweep.plan(planned.unique, store)
    if asked.dry_run:
        show_plan(todo, planned.unique, store)
        return 0
    refused = [str(status.error) for status in todo.refused.values()]
    if len(refused) == len(planned.unique) and len(set(refused)) == 1:
        raise UserError(refused[0])
    outcomes: Mapping[str, Outcome] = {}
    if todo.to_play or todo.refused:
        store.check()
        check_output(asked.output)
        title = f"table {asked.name}, size {asked.size}"
        outcomes = sweep.play(todo, planned.unique, launcher, store, asked.work, title)
    problems = [f"{outcome.name}: {outcome.error}" for outcome in outcomes.values() if outcome.state == "failed"]
    finished = measured(planned, todo, store, problems)
    write(finished, asked.name, planned.seeds, asked.output)
    show(finished)
    print(f"\nTable: {asked.output}")
    return show_failures(outcomes, asked.work)


def plan(content: Mapping[str, Any], asked: TableRequest) -> PlannedTable:
    """What is to be played for the table whose YAML says `content`.

    Raises:
        UserError: for a mistake in the table, a size that it has not, and rows that cannot be composed or play several
            games.
    """
    name, size = asked.name, asked.size
    table = specification(name, content)
    if size not in table.sizes:
        sizes = "; ".join(f"size={key} ({each.about or f'{each.seeds} seeds'})" for key, each in table.sizes.items())
        raise UserError(f"The table {name} has no size {size!r}; it has {sizes}.")
    rows = table.rows(size)
    if not rows:
        raise UserError(f"The table {name} has no rows at the size {size}.")
    seeds = asked.seeds or table.sizes[size].seeds
    where = [f"store.dir={quoted(str(asked.store))}"] if asked.store else []
    try:
        cells = cells_of(rows, range(seeds), [*asked.run, *where], asked.folders)
    except UserError as error:
        raise UserError(f"The table {name}, {error}") from error
    games = {game.name: game for game in (game_of(cell.config) for cell in cells.values())}
    if len(games) > 1:
        raise UserError(f"The table {name}: its rows play the games {' and '.join(games)}; a table is about one.")
    [game] = games.values()
    check_metrics(name, table, game)
    return PlannedTable(asked, table, tuple(rows), seeds, cells, game)


def measured(planned: PlannedTable, todo: Plan, store: Store, problems: list[str]) -> Content:
    """The finished table: what was measured in its games, and what follows for its claims."""
    from experiments.paper_table.claims import judge
    from experiments.paper_table.content import Content, beside, sections
    from experiments.paper_table.results import measure_all

    table, game, asked = planned.specification, planned.game, planned.asked
    files = {name: located.files[0] for name, located in todo.located.items()}
    results = measure_all(table, planned.cells, files, store, asked.size, game)
    columns = [column.shown(metric_of(game, column.metric)) for column in table.columns]
    return Content(
        table, asked.size, asked.command, columns, sections(planned.rows, columns, results, game), results.labels,
        judge(table.claims, results.complete, asked.name, game), beside(table, columns, results, game), problems,
    )  # fmt: skip
