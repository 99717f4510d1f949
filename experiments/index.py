"""An index of a store's games: their rows in one SQLite file, brought up to date with the records whenever it is read.

The records are the truth. The index is a cache that may be deleted at any time; a record whose file has changed since
(by time or size) is read again, one that is gone is dropped, and a new version of `experiments.row` starts it anew.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.row import VERSION, rows

RECORD = re.compile(r"[0-9a-f]{64}\.json")
BATCH = 500  # records that are read between two writes of the index
NAME = "games.sqlite"

Stamp = tuple[int, int]


@dataclass(frozen=True)
class Indexed:
    """All rows of a store, as JSON texts (a list of rows for each game), and the records that could not be read."""

    texts: tuple[str, ...]
    unreadable: tuple[tuple[Path, str], ...]


def read(folder: Path, notify: Callable[[str], None]) -> Indexed:
    """The rows of every game in the store `folder`; the index is made, updated or, where it is damaged, replaced.

    Where the folder cannot be written the rows are read from the records and not kept, which `notify` is told.
    """
    found = dict(_records(folder))
    path = folder / NAME
    try:
        return _read(path, found, _position(folder))
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # read-only, full, or locked by a file system without locks
            notify(f"The index of the games cannot be kept in {path} ({error}); every record is read instead.")
        else:
            notify(f"The index of the games in {path} is damaged ({error}); it is made anew.")
            path.unlink(missing_ok=True)
            return _read(path, found, _position(folder))
    return _read(Path(":memory:"), found, _position(folder))


def _position(folder: Path) -> Callable[[str], Path]:
    return lambda name: folder / "game" / name[:2] / f"{name}.json"


def _read(path: Path, found: dict[str, Stamp], position: Callable[[str], Path]) -> Indexed:
    with closing(sqlite3.connect(path, timeout=30)) as base:
        if base.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            with base:
                base.execute("DROP TABLE IF EXISTS games")
                base.execute("CREATE TABLE games (name TEXT PRIMARY KEY, time INTEGER, size INTEGER, rows TEXT)")
                base.execute(f"PRAGMA user_version = {VERSION}")
        known = {name: (time, size) for name, time, size in base.execute("SELECT name, time, size FROM games")}
        gone = [(name,) for name in known.keys() - found.keys()]
        if gone:
            with base:
                base.executemany("DELETE FROM games WHERE name = ?", gone)
        changed = [name for name, stamp in found.items() if known.get(name) != stamp]
        unreadable = []
        for batch in _batches(changed):
            new = []
            for name in batch:
                try:
                    new.append((name, *found[name], _rows(position(name))))
                except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                    unreadable.append((position(name), _why(error)))
            with base:
                base.executemany("INSERT OR REPLACE INTO games VALUES (?, ?, ?, ?)", new)
        bad = {path.stem for path, _ in unreadable}
        ordered = base.execute("SELECT name, rows FROM games ORDER BY name")
        return Indexed(tuple(text for name, text in ordered if name not in bad), tuple(unreadable))


def _records(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """The name and the stamp (time in ns, bytes) of every record of a game."""
    games = folder / "game"
    for part in sorted(os.scandir(games), key=lambda entry: entry.name) if games.is_dir() else ():
        if part.is_dir():
            for entry in os.scandir(part.path):
                if RECORD.fullmatch(entry.name):
                    stat = entry.stat()
                    yield entry.name[:64], (stat.st_mtime_ns, stat.st_size)


def _rows(path: Path) -> str:
    from pydantic_core import from_json  # several times faster than the standard library's

    envelope: dict[str, Any] = from_json(path.read_bytes())
    found = rows(envelope["payload"], path.stem, str(path.resolve()), envelope["created"])
    return json.dumps(found, separators=(",", ":"), allow_nan=False)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is not JSON" if isinstance(error, ValueError) else "it has not the form of a game, or an older one"


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    from models.progress import progress

    with progress("reading records", len(names)) as tick:
        for start in range(0, len(names), BATCH):
            yield names[start : start + BATCH]
            tick(min(BATCH, len(names) - start))
