"""An index of a store's games: their rows in one SQLite file, brought up to date with the records whenever it is read.

The records are the truth. The index is a cache that may be deleted at any time; a record whose file has changed since
(by time or size) is read again, one that is gone is dropped, and a new version of `experiments.row` starts it anew.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson  # several times faster than the standard library

from experiments.row import VERSION, rows
from models.progress import progress

RECORD = re.compile(r"[0-9a-f]{64}\.json")
BATCH = 250  # records that are read between two writings of the index
MANY = 6  # batches from which on it pays to start processes
NAME = "games.sqlite"
# A row is the list of its values; the names of its columns, which thousands of rows share, are kept once, as a shape.
TABLES = """
DROP TABLE IF EXISTS games; DROP TABLE IF EXISTS shapes; DROP TABLE IF EXISTS contents;
CREATE TABLE games (name TEXT PRIMARY KEY, time INTEGER, size INTEGER);
CREATE TABLE shapes (id INTEGER PRIMARY KEY, columns TEXT UNIQUE);
CREATE TABLE contents (name TEXT, shape INTEGER, content TEXT);
CREATE INDEX of_game ON contents (name);
"""

Stamp = tuple[int, int]


@dataclass(frozen=True)
class Made:
    """What was read from one record: pairs of columns and values, both as JSON; or why it could not be read."""

    path: Path
    rows: tuple[tuple[str, str], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Indexed:
    """All rows of a store: for every shape its columns and its rows' values as JSON; and what could not be read."""

    parts: tuple[tuple[str, tuple[str, ...]], ...]
    unreadable: tuple[tuple[Path, str], ...]


def read(folder: Path, notify: Callable[[str], None]) -> Indexed:
    """The rows of every game in the store `folder`; the index is made, updated or, where it is damaged, replaced.

    Where the folder cannot be written the rows are read from the records and not kept, which `notify` is told.
    """
    found, path = dict(_records(folder)), folder / NAME
    try:
        return _read(path, folder, found)
    except sqlite3.OperationalError as error:  # read-only, full, or locked by a file system without locks
        notify(f"The index of the games cannot be kept in {path} ({error}); every record is read instead.")
        return _read(Path(":memory:"), folder, found)
    except sqlite3.DatabaseError as error:
        notify(f"The index of the games in {path} is damaged ({error}); it is made anew.")
        path.unlink(missing_ok=True)
        return _read(path, folder, found)


def _read(path: Path, folder: Path, found: dict[str, Stamp]) -> Indexed:
    with closing(sqlite3.connect(path, timeout=30)) as base:
        if base.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            base.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        known = {name: (time, size) for name, time, size in base.execute("SELECT name, time, size FROM games")}
        with base:
            for name in known.keys() - found.keys():
                _drop(base, name)
        changed = [
            folder / "game" / name[:2] / f"{name}.json" for name, stamp in found.items() if known.get(name) != stamp
        ]
        unreadable = []
        for batch in _made(changed):
            with base:
                for made in batch:
                    _drop(base, made.path.stem)
                    if made.error is None:
                        _keep(base, made, found[made.path.stem])
                    else:
                        unreadable.append((made.path, made.error))
        parts: dict[int, list[str]] = {}
        for shape, content in base.execute("SELECT shape, content FROM contents ORDER BY name, rowid"):
            parts.setdefault(shape, []).append(content)
        columns = dict(base.execute("SELECT id, columns FROM shapes"))
        return Indexed(tuple((columns[shape], tuple(texts)) for shape, texts in parts.items()), tuple(unreadable))


def _drop(base: sqlite3.Connection, name: str) -> None:
    base.execute("DELETE FROM games WHERE name = ?", (name,))
    base.execute("DELETE FROM contents WHERE name = ?", (name,))


def _keep(base: sqlite3.Connection, made: Made, stamp: Stamp) -> None:
    base.execute("INSERT INTO games VALUES (?, ?, ?)", (made.path.stem, *stamp))
    for columns, content in made.rows:
        base.execute("INSERT OR IGNORE INTO shapes (columns) VALUES (?)", (columns,))
        [shape] = base.execute("SELECT id FROM shapes WHERE columns = ?", (columns,)).fetchone()
        base.execute("INSERT INTO contents VALUES (?, ?, ?)", (made.path.stem, shape, content))


def _records(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """The name and the stamp (time in ns, bytes) of every record of a game."""
    games = folder / "game"
    for part in sorted(os.scandir(games), key=lambda entry: entry.name) if games.is_dir() else ():
        for entry in os.scandir(part.path) if part.is_dir() else ():
            if RECORD.fullmatch(entry.name):
                stat = entry.stat()
                yield entry.name[:64], (stat.st_mtime_ns, stat.st_size)


def _made(paths: Sequence[Path]) -> Iterator[list[Made]]:
    """What `_read_batch` gives for all `paths`, batch by batch; many of them are read by all cores."""
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    with progress("reading records", len(paths)) as tick, ExitStack() as stack:
        run: Callable[..., Iterator[list[Made]]] = map
        workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, 8)
        if len(batches) >= MANY and workers > 1:
            spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
            run = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn)).map
        for made in run(_read_batch, batches):
            yield made
            tick(len(made))


def _read_batch(paths: Sequence[Path]) -> list[Made]:
    made = []
    for path in paths:
        try:
            envelope: dict[str, Any] = orjson.loads(path.read_bytes())
            found = rows(envelope["payload"], path.stem, str(path.resolve()), envelope["created"])
            made.append(Made(path, tuple((_text([*row]), _text([*row.values()])) for row in found)))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            made.append(Made(path, error=_why(error)))
    return made


def _text(values: list[Any]) -> str:
    return orjson.dumps(values).decode()


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is not JSON" if isinstance(error, ValueError) else "it has not the form of a game, or an older one"
