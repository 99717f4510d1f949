"""Make a table: play what is missing, measure, test the claims, print, and write Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.cli.roles import game_of
from experiments.paper_table.checking import check_metrics, specification
from experiments.paper_table.games import cells_of
from experiments.paper_table.specification import Row, Specification
from experiments.paper_table.typed import quoted
from experiments.storage.records import checked, jsonable, with_nulls, write_atomic, write_json_atomic
from experiments.sweeps.cells import Cell
from games.game import Game, metric_of

if TYPE_CHECKING:
    from experiments.paper_table.content import Content
    from experiments.storage.store import Store
    from experiments.sweeps.launchers.launcher import Outcome
    from experiments.sweeps.sweep import Plan

SCHEMA = 1


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


def make(content: Mapping[str, Any], order: TableRequest, launcher_node: Mapping[str, Any]) -> int:
    """Make the table whose YAML says `content`; returns the exit code: 0, or 1 when a game could not be played.

    Raises:
        UserError: for a mistake in the table or the order; nothing was played then.
    """
    from experiments.sweeps.command import common_store, launcher_of, show_failures, show_plan

    table = specification(order.name, content)
    rows = _rows(table, order)
    seeds = range(order.seeds or table.sizes[order.size].seeds)
    where = [f"store.dir={quoted(str(order.store))}"] if order.store else []
    try:
        cells = cells_of(rows, seeds, [*order.run, *where], order.folders)
    except UserError as error:
        raise UserError(f"The table {order.name}, {error}") from error
    game = _game(order.name, table, cells)
    unique = list({cell.name: cell for cell in cells.values()}.values())
    store, launcher = common_store(unique), launcher_of(launcher_node)
    from data.machine import use_threads
    from experiments.sweeps import sweep  # brings torch: mistakes in the table answer without it

    use_threads("auto")  # one: the sums here are small
    todo = sweep.plan(unique, store)
    if order.dry_run:
        show_plan(todo, unique, store)
        return 0
    if len(set(refused := [str(each.error) for each in todo.refused.values()])) == 1 and len(refused) == len(unique):
        raise UserError(refused[0])
    outcomes: Mapping[str, Outcome] = {}
    if todo.to_play or todo.refused:
        store.check()
        check_output(order.output)
        outcomes = sweep.play(todo, unique, launcher, store, order.work, f"table {order.name}, size {order.size}")
    finished = _content(table, rows, cells, order, store, todo, outcomes, game)
    write(finished, order, len(seeds))
    from experiments.paper_table.render import show

    show(finished)
    print(f"\nTable: {order.output}")
    return show_failures(outcomes, order.work)


def _rows(table: Specification, order: TableRequest) -> list[Row]:
    if order.size not in table.sizes:
        sizes = "; ".join(f"size={name} ({size.about or f'{size.seeds} seeds'})" for name, size in table.sizes.items())
        raise UserError(f"The table {order.name} has no size {order.size!r}; it has {sizes}.")
    rows = table.rows(order.size)
    if not rows:
        raise UserError(f"The table {order.name} has no rows at the size {order.size}.")
    return rows


def _game(name: str, table: Specification, cells: Mapping[tuple[str, int], Cell]) -> Game:
    """The one game that all rows play, which has what the table names."""
    games = {each.name: each for each in (game_of(cell.config) for cell in cells.values())}
    if len(games) > 1:
        raise UserError(f"The table {name}: its rows play the games {' and '.join(games)}; a table is about one.")
    [game] = games.values()
    check_metrics(name, table, game)
    return game


def _content(
    table: Specification, rows: Sequence[Row], cells: Mapping[tuple[str, int], Cell], order: TableRequest, store: Store,
    todo: Plan, outcomes: Mapping[str, Outcome], game: Game,
) -> Content:  # fmt: skip
    from experiments.paper_table.claims import judge
    from experiments.paper_table.content import Content, line, number
    from experiments.paper_table.results import measure_all

    files = {name: located.files[0] for name, located in todo.located.items()}
    results = measure_all(table, rows, cells, files, store, order.size, game)
    sections = {
        part: [
            line(row, part, table.columns, results.present, game)
            for row in rows
            if part in results.parts[row.name] or not results.parts[row.name]
        ]
        for part in results.labels
    }
    beside = [
        (each, number(results.present(each.row, each.metric, each.part), metric_of(game, each.metric)))
        for each in table.beside
        if each.row in results.parts
    ]
    verdicts = judge(table.claims, results.complete, order.name, game)
    problems = [f"{each.name}: {each.error}" for each in outcomes.values() if each.state == "failed"]
    return Content(table, order.size, order.command, sections, results.labels, verdicts, beside, problems)


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


def write(content: Content, order: TableRequest, seeds: int) -> None:
    """Write `table.md`, `.csv`, `.tex` and `.json` into the output folder, each whole or not at all.

    Raises:
        UserError: when the folder cannot be written; the games are in the store all the same.
    """
    from experiments.paper_table.latex import latex
    from experiments.paper_table.render import comma_separated, markdown

    table, text = content.specification, markdown(content)
    rows = [
        {
            "row": each.row.name, "labels": each.row.labels, "part": part, "n": each.n,
            "values": {c.metric: dataclasses.asdict(n) for c, n in zip(table.columns, each.numbers, strict=True)},
        }
        for part, lines in content.sections.items()
        for each in lines
    ]  # fmt: skip
    record = {
        "schema": SCHEMA, "name": order.name, "title": table.title, "size": order.size, "command": order.command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "seeds": seeds, "source": table.source, "rows": rows,
        "claims": [dataclasses.asdict(verdict) for verdict in content.verdicts], "markdown": text,
        "provenance": content.elsewhere(), "missing": list(content.problems),
    }  # fmt: skip
    try:
        write_atomic(order.output / "table.md", text.encode())
        write_atomic(order.output / "table.csv", comma_separated(content).encode())
        write_atomic(order.output / "table.tex", latex(content, order.name).encode())
        write_json_atomic(order.output / "table.json", checked(with_nulls(jsonable(record))))
    except OSError as error:
        raise UserError(
            f"The table cannot be written in {order.output} ({error.strerror}); what was played is kept in the store: "
            "make room, or set output=FOLDER, and start the same command again."
        ) from error
