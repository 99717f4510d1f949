"""Play one cell of a sweep in whatever process a launcher has put it, and say how it ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import cache, lru_cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from experiments.sweeps.launchers.launcher import Job, Outcome, failed
from storage.records import canonical_json, write_json_atomic

if TYPE_CHECKING:
    from data.examples import Data

NON_BLOCKING = frozenset({"game"})  # long computations, beside those of the game: another cell is played meanwhile


def work(job: Job) -> Outcome:
    """Play the cell of `job` into its folder; never raises an Exception.

    `busy` means that another process computes one of its games. The folder's `status.json` says how far it is, and
    `run.log` what happened.
    """
    began = perf_counter()
    _write_status(job.folder, {"state": "running"})
    with _logged(job.folder):
        outcome = replace(_play(job), seconds=perf_counter() - began)
    _write_status(job.folder, asdict(outcome))
    return outcome


@cache
def _player() -> Callable[..., Any]:
    """`play_config`, imported where the first game of this process is played."""
    from data.machine import importing

    with importing():
        from experiments.play.play import play_config
    return play_config


def _play(job: Job) -> Outcome:
    from storage.store import LockedElsewhere

    try:
        _player()(job.config, job.folder, data_of(job.config), NON_BLOCKING)
    except LockedElsewhere:
        return Outcome(job.name, "busy")
    except Exception as error:
        return failed(job.name, error)
    return Outcome(job.name, "done")


def data_of(config: Mapping[str, Any]) -> Data:
    """The data set of a configuration; the last one is kept, since the cells of a sweep mostly share it."""
    return _data(canonical_json(config["data"]))


@lru_cache(maxsize=1)
def _data(node: str) -> Data:
    from experiments.play.setup import load

    return load({"data": json.loads(node)})


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """What is logged meanwhile goes to `run.log` of the folder, and only warnings to standard error."""
    root = logging.getLogger()
    before = root.level
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler: logging.Handler = logging.FileHandler(folder / "run.log", encoding="utf-8", delay=True)
    except OSError:  # the cell will say that its folder cannot be written
        handler = logging.NullHandler()
    handler.handleError = lambda _: None  # type: ignore[method-assign,assignment]  # a full disk ends the log, not the game
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        with suppress(OSError):
            handler.close()


def _write_status(folder: Path, status: Mapping[str, Any]) -> None:
    with suppress(OSError):  # a full disk: the outcome itself reaches the sweep by another way
        write_json_atomic(folder / "status.json", status)
