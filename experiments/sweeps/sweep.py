"""Play the cells of a sweep: what is finished is recognised and left alone, what fails does not stop the rest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.naming import KEY
from experiments.cli.folders import keep_other_sweep
from experiments.storage.identity import Machine, fingerprint
from experiments.storage.records import canonical_json, write_json_atomic
from experiments.sweeps.cells import Cell, paths
from experiments.sweeps.launchers.launcher import Job, Launcher, Outcome
from experiments.sweeps.progress import Watch, watching
from experiments.sweeps.work import data_of, work

if TYPE_CHECKING:
    from experiments.storage.store import Store

PAUSE = 0.5  # seconds between two looks at cells that another process computes
REST = 5.0  # seconds between two writings of the list of cells


@dataclass(frozen=True)
class CellStatus:
    """A cell with the files of its games, and what it is but for its defense: cells that share it share an attack."""

    cell: Cell
    files: tuple[Path, ...]
    undefended: str


@dataclass(frozen=True)
class Plan:
    """What there is to do: cells that are finished, cells to play, and cells that cannot be played, with the reason."""

    finished: tuple[CellStatus, ...]
    to_play: tuple[CellStatus, ...]
    refused: Mapping[str, Outcome] = field(default_factory=dict)

    @property
    def located(self) -> dict[str, CellStatus]:
        """The cells that can be played or are, by name."""
        return {each.cell.name: each for each in (*self.finished, *self.to_play)}


def plan(cells: Sequence[Cell], store: Store) -> Plan:
    """Look every cell up in the store, and check those that are missing as far as possible without training."""
    from experiments.play.settings import settings_from
    from experiments.play.setup import prepare

    finished, missing, refused = [], [], {}
    prints: dict[str, str] = {}
    checked: dict[str, Exception | None] = {}
    for cell in cells:
        try:
            settings = settings_from(cell.config)
            data = canonical_json(cell.config["data"])
            if data not in prints:
                prints[data] = fingerprint(data_of(cell.config))
            located = locate(cell, store, prints[data], machine_of(settings))
            if all(store.find_record(file) is not None for file in located.files):
                finished.append(located)
                continue
            but_seed = canonical_json({k: v for k, v in cell.config.items() if k != "seed"})
            if but_seed not in checked:  # what is wrong with one seed is wrong with all
                checked[but_seed] = None
                checked[but_seed] = _raised(prepare, cell.config, data_of(cell.config))
            if (error := checked[but_seed]) is not None:
                raise error
            missing.append(located)
        except Exception as error:
            refused[cell.name] = _refused(cell, error)
    return Plan(tuple(finished), tuple(spread(missing)), refused)


def machine_of(settings: Any) -> Machine:
    """The part of this machine that takes part in the keys, from the settings of a cell; nothing is switched."""
    from data.machine import use_device

    return Machine(use_device(settings.device).type, 1 if settings.threads == "auto" else settings.threads)


def locate(cell: Cell, store: Store, data: str, machine: Machine) -> CellStatus:
    """The cell with its files; `data` is the fingerprint of its data set."""
    undefended = canonical_json({key: value for key, value in cell.config.items() if key not in ("defense", KEY)})
    return CellStatus(cell, tuple(paths(cell, store, machine, data)), undefended)


def spread(cells: Sequence[CellStatus]) -> list[CellStatus]:
    """Cells that share an attack far from each other: the first to be played keeps its requests for the others."""
    seen: dict[str, int] = {}
    turns = []
    for each in cells:
        turns.append(seen.get(each.undefended, 0))
        seen[each.undefended] = turns[-1] + 1
    return [each for _, each in sorted(zip(turns, cells, strict=True), key=lambda pair: pair[0])]


def play_cells(
    cells: Sequence[Cell], launcher: Launcher, store: Store, folder: Path, label: str = "sweep"
) -> dict[str, Outcome]:
    """Play every cell that is not finished; returns the outcome of all, by name, in the order given: plan and play.

    Raises:
        UserError: when the store cannot be written, or the launcher cannot launch here.
    """
    store.check()
    return play(plan(cells, store), cells, launcher, store, folder, label)


def play(
    todo: Plan, cells: Sequence[Cell], launcher: Launcher, store: Store, folder: Path, label: str = "sweep"
) -> dict[str, Outcome]:
    """Play what there is to do for the `cells`; returns the outcome of all, by name, in the order given.

    Every cell's own folder is `folder/NAME`; `folder/sweep.json` lists all of them, with their state and the files of
    their games. A cell that another process is computing is left to it, and looked at again in the end.

    Raises:
        UserError: when the launcher cannot launch here, or the store can no longer be written.
    """
    outcomes: dict[str, Outcome] = {each.cell.name: Outcome(each.cell.name, "done") for each in todo.finished}
    outcomes |= todo.refused
    try:
        keep_other_sweep(folder, [cell.name for cell in cells])
        _write(folder, cells, todo, outcomes)
    except OSError as error:
        raise UserError(
            f"The sweep's folder {folder} cannot be written ({error.strerror}); set hydra.sweep.dir=FOLDER."
        ) from error
    pending = list(todo.to_play)
    for each in pending:
        (folder / each.cell.name / "status.json").unlink(missing_ok=True)  # of a sweep that was killed here
    names = {each.cell.name for each in pending}
    written = time.monotonic()
    with watching(label, Watch(folder, len(cells), len(todo.finished), len(todo.refused), open=names)) as watch:
        while pending:
            jobs = [Job(each.cell.name, _config(each.cell, folder), folder / each.cell.name) for each in pending]
            busy = []
            with closing(launcher.launch(jobs, work)) as ended:  # type: ignore[type-var]
                for outcome in ended:
                    if outcome.state == "failed":
                        store.check()  # on a full disk all that follow would fail, and their results be lost
                    if outcome.state == "busy":
                        busy.append(todo.located[outcome.name])
                        continue
                    outcomes[outcome.name] = outcome
                    watch.ended(outcome)
                    if time.monotonic() - written > REST:
                        with suppress(OSError):  # a full disk: the games themselves say so
                            _write(folder, cells, todo, outcomes)
                        written = time.monotonic()
            pending = await_others(busy, store, outcomes, watch)
    with suppress(OSError):
        _write(folder, cells, todo, outcomes)
    return {cell.name: outcomes[cell.name] for cell in cells}


def await_others(
    busy: Sequence[CellStatus], store: Store, outcomes: dict[str, Outcome], watch: Watch
) -> list[CellStatus]:
    """Wait until another process has finished some of the `busy` cells, or let go of them; returns the latter."""
    waiting = list(busy)
    while waiting:
        free = [each for each in waiting if not any(store.is_locked(file) for file in each.files)]
        for each in list(free):
            if all(store.find_record(file) is not None for file in each.files):
                outcomes[each.cell.name] = Outcome(each.cell.name, "done")
                watch.served(each.cell.name)
                free.remove(each)
                waiting.remove(each)
        if free:
            time.sleep(PAUSE)  # what it waits for inside (an attack, say) may still be under way elsewhere
            return waiting
        if waiting:
            time.sleep(PAUSE)
    return []


def _config(cell: Cell, folder: Path) -> dict[str, Any]:
    tracking = cell.config["wandb"]
    return {**cell.config, "wandb": {**tracking, "group": tracking["group"] or folder.name}}


def _raised(function: Any, *arguments: Any) -> Exception | None:
    try:
        function(*arguments)
    except Exception as error:
        return error
    return None


def _refused(cell: Cell, error: Exception) -> Outcome:
    from experiments.cli.explain import sentence
    from experiments.sweeps.launchers.launcher import failed

    job = Job(cell.name, cell.config, Path())
    text = sentence(error)
    return failed(job, error) if text is None else Outcome(cell.name, "failed", error=text)


def _write(folder: Path, cells: Sequence[Cell], todo: Plan, outcomes: Mapping[str, Outcome]) -> None:
    located = todo.located
    entries = [
        {
            "name": cell.name, "overrides": cell.overrides,
            "state": outcomes[cell.name].state if cell.name in outcomes else "open",
            "error": outcomes[cell.name].error if cell.name in outcomes else None,
            "games": located[cell.name].files if cell.name in located else [],
        }
        for cell in cells
    ]  # fmt: skip
    date = datetime.now(UTC).isoformat(timespec="seconds")
    write_json_atomic(folder / "sweep.json", {"schema": 1, "date": date, "cells": entries})
