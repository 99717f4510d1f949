"""Play the cells of a sweep: what is finished is recognised and left alone, what fails does not stop the rest."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.naming import KEY
from experiments.cli.folders import keep_other_sweep
from experiments.play.identity import Keys, Machine, fingerprint
from experiments.sweeps.cells import SEED, Cell
from experiments.sweeps.launchers.launcher import Job, Launcher, Outcome, failed
from experiments.sweeps.progress import Progress, shown
from experiments.sweeps.work import data_of, work
from storage.records import canonical_json, write_json_atomic

if TYPE_CHECKING:
    from experiments.play.settings import Settings
    from storage.store import Store

PAUSE = 0.5  # seconds between two looks at cells that another process computes
REST = 5.0  # seconds between two writings of the list of cells


@dataclass(frozen=True)
class CellStatus:
    """A cell with the files of its games, and what it is but for its defense: cells that share it share an attack."""

    cell: Cell
    files: tuple[Path, ...]
    undefended: str

    def is_finished(self, store: Store) -> bool:
        """Whether all its games are in the store, undamaged."""
        return all(store.find_record(file) is not None for file in self.files)


@dataclass(frozen=True)
class Plan:
    """What there is to do: cells that are finished, cells to play, and cells that cannot be played, with the reason."""

    finished: tuple[CellStatus, ...]
    to_play: tuple[CellStatus, ...]
    refused: Mapping[str, Outcome]

    @cached_property
    def located(self) -> dict[str, CellStatus]:
        """The cells that can be played or are, by name."""
        return {status.cell.name: status for status in (*self.finished, *self.to_play)}

    def check(self) -> None:
        """Raise UserError where every cell is refused, and all for one reason."""
        reasons = {str(outcome.error) for outcome in self.refused.values()}
        if not self.located and len(reasons) == 1:
            raise UserError(reasons.pop())


def plan(cells: Sequence[Cell], store: Store) -> Plan:
    """Look every cell up in the store, and check those that are missing as far as possible without training."""
    from experiments.play.settings import settings_from

    finished, missing, refused = [], [], {}
    series: dict[str, _Series] = {}
    fingerprints: dict[str, str] = {}
    for cell in cells:
        try:
            settings = settings_from(cell.config)
            text = canonical_json({key: value for key, value in cell.config.items() if key != SEED})
            if text not in series:
                series[text] = _series(cell, settings, fingerprints)
            alike = series[text]
            files = tuple(store.record_path("game", {**alike.key, SEED: seed}) for seed in cell.seeds)
            status = CellStatus(cell, files, f"{cell.config[SEED]} {alike.undefended}")
            if status.is_finished(store):
                finished.append(status)
            elif alike.mistake is not None:
                refused[cell.name] = failed(cell.name, alike.mistake)
            else:
                missing.append(status)
        except Exception as error:
            refused[cell.name] = failed(cell.name, error)
    return Plan(tuple(finished), tuple(spread(missing)), refused)


@dataclass(frozen=True)
class _Series:
    """What cells have in common that differ in their seeds alone: the key of their games, and what is wrong."""

    first: Cell
    key: Mapping[str, Any]
    undefended: str

    @cached_property
    def mistake(self) -> Exception | None:
        """Why none of them can be played, as far as that is known without training."""
        from experiments.play.setup import prepare

        try:
            prepare(self.first.config, data_of(self.first.config))
        except Exception as error:
            return error
        return None


def _series(cell: Cell, settings: Settings, fingerprints: dict[str, str]) -> _Series:
    """The series of a cell; `fingerprints` are those of data sets by their configuration, and grow."""
    from data.machine import use_device

    data = canonical_json(cell.config["data"])
    if data not in fingerprints:
        fingerprints[data] = fingerprint(data_of(cell.config))
    machine = Machine(use_device(settings.device).type, 1 if settings.threads == "auto" else settings.threads)
    attacked = {key: value for key, value in cell.config.items() if key not in ("defense", SEED, KEY)}
    return _Series(cell, Keys(cell.config, fingerprints[data], machine).game(), canonical_json(attacked))


def spread(cells: Sequence[CellStatus]) -> list[CellStatus]:
    """Cells that share an attack far from each other: the first to be played keeps its requests for the others."""
    turns = defaultdict[str, Iterator[int]](itertools.count)
    return sorted(cells, key=lambda status: next(turns[status.undefended]))


def play(
    todo: Plan, cells: Sequence[Cell], launcher: Launcher, store: Store, folder: Path, label: str = "sweep"
) -> dict[str, Outcome]:
    """Play what there is to do for the `cells`; returns the outcome of all, by name, in the order given.

    Every cell's own folder is `folder/NAME`; `folder/sweep.json` lists all of them, with their state and the files of
    their games. A cell that another process is computing is left to it, and looked at again in the end. Raises
    UserError when the launcher cannot launch here, or the store can no longer be written.
    """
    outcomes = {status.cell.name: Outcome(status.cell.name, "done") for status in todo.finished} | dict(todo.refused)
    try:
        keep_other_sweep(folder, [cell.name for cell in cells])
        _write(folder, cells, todo, outcomes)
    except OSError as error:
        raise UserError(
            f"The sweep's folder {folder} cannot be written ({error.strerror}); set hydra.sweep.dir=FOLDER."
        ) from error
    for status in todo.to_play:
        (folder / status.cell.name / "status.json").unlink(missing_ok=True)  # of a sweep that was killed here
    open_cells = {status.cell.name for status in todo.to_play}
    progress = Progress(folder, len(cells), len(todo.finished), len(todo.refused), open_cells)
    pending, written = list(todo.to_play), time.monotonic()
    with shown(label, progress):
        while pending:
            busy = []
            jobs = [_job(status.cell, folder) for status in pending]
            with closing(launcher.launch(jobs, work)) as ended:  # type: ignore[type-var]
                for outcome in ended:
                    if outcome.state == "failed":
                        store.check()  # on a full disk all that follow would fail, and their results be lost
                    if outcome.state == "busy":
                        busy.append(todo.located[outcome.name])
                        continue
                    outcomes[outcome.name] = outcome
                    progress.ended(outcome)
                    if time.monotonic() - written > REST:
                        with suppress(OSError):  # a full disk: the games themselves say so
                            _write(folder, cells, todo, outcomes)
                        written = time.monotonic()
            pending = await_others(busy, store, outcomes, progress)
    with suppress(OSError):
        _write(folder, cells, todo, outcomes)
    return {cell.name: outcomes[cell.name] for cell in cells}


def await_others(
    busy: Sequence[CellStatus], store: Store, outcomes: dict[str, Outcome], progress: Progress
) -> list[CellStatus]:
    """Wait until another process has finished some of the `busy` cells, or let go of them; returns the latter."""
    waiting = {status.cell.name: status for status in busy}
    while waiting:
        free = [status for status in waiting.values() if not any(store.is_locked(file) for file in status.files)]
        finished = [status.cell.name for status in free if status.is_finished(store)]
        for name in finished:
            outcomes[name] = Outcome(name, "done")
            progress.served(name)
            del waiting[name]
        if waiting:
            time.sleep(PAUSE)
        if len(free) > len(finished):  # what these wait for inside (an attack, say) may still be under way elsewhere
            break
    return list(waiting.values())


def _job(cell: Cell, folder: Path) -> Job:
    tracking = {**cell.config["wandb"], "group": cell.config["wandb"]["group"] or folder.name}
    return Job(cell.name, {**cell.config, "wandb": tracking}, folder / cell.name)


def _write(folder: Path, cells: Sequence[Cell], todo: Plan, outcomes: Mapping[str, Outcome]) -> None:
    entries = []
    for cell in cells:
        outcome, located = outcomes.get(cell.name), todo.located.get(cell.name)
        state, error = (outcome.state, outcome.error) if outcome else ("open", None)
        games = located.files if located else []
        entries.append({"name": cell.name, "overrides": cell.overrides, "state": state, "error": error, "games": games})
    date = datetime.now(UTC).isoformat(timespec="seconds")
    write_json_atomic(folder / "sweep.json", {"schema": 1, "date": date, "cells": entries})
