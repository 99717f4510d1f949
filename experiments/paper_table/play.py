"""Make a table: play what is missing, measure, test the claims, print and write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.cli.roles import game_of
from experiments.paper_table.checking import check_metrics, specification
from experiments.paper_table.games import Cells, cells_of
from experiments.paper_table.specification import Specification
from games.game import Game

if TYPE_CHECKING:
    from experiments.sweeps.launchers.launcher import Outcome


@dataclass(frozen=True)
class TableRequest:
    """What was asked for: the table `name`, its size and seeds, and where things go.

    `run` are further overrides of every game, `folders` those of `--config-dir`; cells leave their logs in `work`.
    """

    name: str
    size: str
    seeds: int | None
    run: tuple[str, ...]
    output: Path
    work: Path
    folders: tuple[Path, ...]
    dry_run: bool
    command: str


def make(content: Mapping[str, Any], asked: TableRequest, launcher_node: Mapping[str, Any]) -> int:
    """Make the table whose YAML says `content`; returns the exit code: 0, or 1 when a game could not be played.

    Raises UserError for a mistake in the table or the request; nothing was played then.
    """
    from experiments.sweeps.command import check_all_tracking, common_store, launcher_of, show_failures, show_plan

    table, cells, game = plan(content, asked)
    unique = list({cell.name: cell for cell in cells.values()}.values())  # rows may share theirs
    check_all_tracking(unique)
    store, launcher = common_store(unique), launcher_of(launcher_node)
    from data.machine import use_threads
    from experiments.paper_table.content import content_of
    from experiments.paper_table.render import check_output, show, write
    from experiments.paper_table.results import measure_all
    from experiments.sweeps import sweep  # brings torch: mistakes in the table answer without it

    use_threads("auto")  # one: the sums here are small
    todo = sweep.plan(unique, store)
    if asked.dry_run:
        show_plan(todo, unique, store)
        return 0
    todo.check()
    outcomes: Mapping[str, Outcome] = {}
    if todo.to_play or todo.refused:
        store.check()
        check_output(asked.output)
        outcomes = sweep.play(todo, unique, launcher, store, asked.work, f"table {asked.name}, size {asked.size}")
    problems = [f"{outcome.name}: {outcome.error}" for outcome in outcomes.values() if outcome.state == "failed"]
    files = {name: located.files[0] for name, located in todo.located.items()}
    results = measure_all(table, cells, files, store, asked.size, game)
    finished = content_of(table, asked.name, asked.command, results, game, problems)
    write(finished, asked.name, results.seeds, asked.output)
    show(finished)
    print(f"\nTable: {asked.output}")
    return show_failures(outcomes, asked.work)


def plan(content: Mapping[str, Any], asked: TableRequest) -> tuple[Specification, Cells, Game]:
    """The table whose YAML says `content`, the cells of its rows and seeds, and the game that it is about.

    Raises UserError for a mistake in the table, a size that it has not, and rows that cannot be composed or play
    several games.
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
    try:
        cells = cells_of(rows, range(seeds), asked.run, asked.folders)
    except UserError as error:
        raise UserError(f"The table {name}, {error}") from error
    games = {game.name: game for game in (game_of(cell.config) for cell in cells.values())}
    if len(games) > 1:
        raise UserError(f"The table {name}: its rows play the games {' and '.join(games)}; a table is about one.")
    [game] = games.values()
    check_metrics(name, table, game)
    return table, cells, game
