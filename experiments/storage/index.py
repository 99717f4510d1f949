"""An index of a store's games: their rows in one SQLite file, brought up to date with the records whenever it is read.

The records are the truth, and each is verified when its rows are taken from it. The index is a cache that may be
deleted at any time: a record whose file is another since, or has changed (by identity, times or size), is read again,
one that is gone is dropped, and an edit of what makes rows (the code of the games) starts it anew. So does any doubt:
every row is compared with a check sum whenever it is read.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import multiprocessing
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson  # several times faster than the standard library

from experiments.storage.artifact import Damaged, read_record
from experiments.storage.row import GROUPS, Row, rows
from games.game import Game
from models.progress import progress

RECORD = re.compile(r"[0-9a-f]{64}\.json")
BATCH = 250  # records that are read between two writings of the index
MANY = 6  # batches from which on it pays to start processes
NAME = "games.sqlite"
# What a record that is whole, and yet no game of this version, makes `rows` raise.
UNFIT = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
PLAIN = {str, bool, int, float, type(None)}
LAYOUT = 4  # raise it when the tables below change
# A row is the list of its values; the names of its columns, which thousands of rows share, are kept once, as a shape
# that is named by its check sum.
TABLES = """
DROP TABLE IF EXISTS games; DROP TABLE IF EXISTS shapes; DROP TABLE IF EXISTS contents;
CREATE TABLE games (name TEXT PRIMARY KEY, stamp TEXT, checksum BLOB);
CREATE TABLE shapes (id BLOB PRIMARY KEY, columns BLOB);
CREATE TABLE contents (name TEXT, shape BLOB, content BLOB);
CREATE INDEX of_game ON contents (name);
"""
# What SQLite cannot do here, whatever is in the file; anything else that it raises is the file's doing.
SURROUNDINGS = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY,
}  # fmt: skip


class _Doubt(Exception):
    """The index holds something that was not written into it."""


@dataclass(frozen=True)
class Made:
    """What was read from one record: pairs of columns and values, both as JSON; or why it could not be read."""

    path: Path
    rows: tuple[tuple[bytes, bytes], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Indexed:
    """All rows of a store: for every shape its columns and its rows' values as JSON; and what could not be read."""

    parts: tuple[tuple[bytes, tuple[bytes, ...]], ...]
    unreadable: tuple[tuple[Path, str], ...]


def read(folder: Path, games: Mapping[str, Game], notify: Callable[[str], None]) -> Indexed:
    """The rows of every record in the store `folder`; the index is made, updated or, where it is damaged, replaced.

    `games` are those that there are, by name: a record of another one is unreadable.

    Where the folder cannot be written the rows are read from the records and not kept, which `notify` is told.
    """
    found, path = dict(_records(folder)), folder / NAME
    try:
        return _read(path, folder, found, games)
    except (sqlite3.Error, _Doubt, MemoryError) as error:
        if _is_damage(error):
            notify(f"The index of the games in {path} is damaged ({error}); it is made anew.")
            try:
                path.unlink(missing_ok=True)
                return _read(path, folder, found, games)
            except (sqlite3.Error, _Doubt, OSError) as again:
                reason: Exception = again
        else:
            reason = error
        notify(f"The index of the games cannot be kept in {path} ({reason}); every record is read instead.")
        return _read(Path(":memory:"), folder, found, games)


def _version(games: Mapping[str, Game]) -> int:
    """A number for the layout and the code that makes rows: of this folder's `row`, and of the games."""
    files = [Path(inspect.getfile(rows))]
    for _, game in sorted(games.items()):
        file = Path(inspect.getfile(type(game)))
        files += sorted(file.parent.glob("*.py")) if (file.parent / "__init__.py").is_file() else [file]
    together = _checksum(*(file.read_bytes() for file in files))
    return (int.from_bytes(together[:3], "little") << 7) + LAYOUT


def _is_damage(error: Exception) -> bool:
    """Whether the file is at fault, and not that it is read-only, full, or locked by a file system without locks."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in SURROUNDINGS


def _read(path: Path, folder: Path, found: dict[str, str], games: Mapping[str, Game]) -> Indexed:
    with closing(sqlite3.connect(path, timeout=30)) as base:
        version = _version(games)
        if base.execute("PRAGMA user_version").fetchone()[0] != version:
            base.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {version}; COMMIT;")
        known = dict(base.execute("SELECT name, stamp FROM games"))
        with base:
            for name in known.keys() - found.keys():
                _drop(base, name)
        changed = [
            folder / "game" / name[:2] / f"{name}.json" for name, stamp in found.items() if known.get(name) != stamp
        ]
        unreadable = []
        for batch in _made(changed, games):
            with base:
                for made in batch:
                    _drop(base, made.path.stem)
                    if made.error is None:
                        _keep(base, made, found[made.path.stem])
                    else:
                        unreadable.append((made.path, made.error))
        wanted = found.keys() - {path.stem for path, _ in unreadable}
        return Indexed(_verified(base, wanted), tuple(unreadable))


def _verified(base: sqlite3.Connection, wanted: set[str]) -> tuple[tuple[bytes, tuple[bytes, ...]], ...]:
    """The rows of the games `wanted`, by shape; raises _Doubt where one of them is not what was written."""
    base.execute("BEGIN")  # one state of the base, whatever other processes write meanwhile
    stamped = {name: (stamp, kept) for name, stamp, kept in base.execute("SELECT name, stamp, checksum FROM games")}
    columns = dict(base.execute("SELECT id, columns FROM shapes"))
    every = base.execute("SELECT name, shape, content FROM contents ORDER BY name, rowid").fetchall()
    base.rollback()
    if any(not isinstance(text, bytes) or _checksum(text) != shape for shape, text in columns.items()):
        raise _Doubt("the names of its columns have changed")
    if wanted - stamped.keys():
        raise _Doubt("a game is missing")
    parts: dict[bytes, list[bytes]] = {}
    for name, group in groupby(every, key=itemgetter(0)):
        if name not in wanted:
            continue
        found = [(shape, content) for _, shape, content in group]
        stamp, kept = stamped.pop(name, ("", b""))
        if _of_game(name, stamp, found) != kept or any(shape not in columns for shape, _ in found):
            raise _Doubt("a row has changed")
        for shape, content in found:
            parts.setdefault(shape, []).append(content)
    if stamped.keys() & wanted:
        raise _Doubt("rows are missing")
    return tuple((columns[shape], tuple(texts)) for shape, texts in parts.items())


def _checksum(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _of_game(name: str, stamp: str, found: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The check sum of a game: its name, its file, and its rows in their order."""
    parts = [part for row in found for part in row]
    if not isinstance(stamp, str) or not all(isinstance(part, bytes) for part in parts):
        return b"damaged"
    return _checksum(name.encode(errors="replace"), stamp.encode(errors="replace"), *parts)


def _drop(base: sqlite3.Connection, name: str) -> None:
    base.execute("DELETE FROM games WHERE name = ?", (name,))
    base.execute("DELETE FROM contents WHERE name = ?", (name,))


def _keep(base: sqlite3.Connection, made: Made, stamp: str) -> None:
    name, found = made.path.stem, [(_checksum(columns), content) for columns, content in made.rows]
    base.execute("INSERT INTO games VALUES (?, ?, ?)", (name, stamp, _of_game(name, stamp, found)))
    for (columns, _), (shape, content) in zip(made.rows, found, strict=True):
        base.execute("INSERT OR IGNORE INTO shapes VALUES (?, ?)", (shape, columns))
        base.execute("INSERT INTO contents VALUES (?, ?, ?)", (name, shape, content))


def _records(folder: Path) -> Iterator[tuple[str, str]]:
    """The name of every record of a game and a stamp of its file, which any writing or replacing of it changes."""
    games = folder / "game"
    for part in sorted(os.scandir(games), key=lambda entry: entry.name) if games.is_dir() else ():
        for entry in os.scandir(part.path) if part.is_dir() else ():
            if RECORD.fullmatch(entry.name):
                stat = entry.stat()
                yield entry.name[:64], f"{stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {stat.st_size}"


def _made(paths: Sequence[Path], games: Mapping[str, Game]) -> Iterator[list[Made]]:
    """What `_read_batch` gives for all `paths`, batch by batch; many of them are read by all cores."""
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    with progress("reading records", len(paths)) as tick, ExitStack() as stack:
        run: Callable[..., Iterator[list[Made]]] = map
        workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, 8)
        if len(batches) >= MANY and workers > 1:
            spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
            run = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn)).map
        for made in run(partial(_read_batch, games=games), batches):
            yield made
            tick(len(made))


def _read_batch(paths: Sequence[Path], games: Mapping[str, Game]) -> list[Made]:
    made = []
    for path in paths:
        try:
            found = read_record(path)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "it is gone")
            description, text = found
            record: dict[str, Any] = orjson.loads(text)
            where = {"digest": path.stem, "path": str(path.resolve()), "created": str(description["created"])}
            if "game" in record and record["game"] not in games:
                raise Damaged(
                    f"it is of the game {record['game']!r:.40}, which is not known here: --config-dir names it"
                )
            game = games[record["game"]]
            made.append(Made(path, tuple(_row({**row, **where}) for row in rows(game, record))))
        except (Damaged, OSError) as error:
            made.append(Made(path, error=getattr(error, "strerror", None) or str(error)))
        except UNFIT:
            made.append(Made(path, error="it has not the form of a game, or an older one"))
    return made


def _row(row: Row) -> tuple[bytes, bytes]:
    """The columns and the values of a row as JSON; raises ValueError for values of other types than views need."""
    texts = ("part", "heading", *GROUPS)
    if type(row["seed"]) is not int or not all(isinstance(row[name], str) for name in texts):
        raise ValueError("a row of other types")
    if not set(map(type, row.values())) <= PLAIN:
        raise ValueError("a row of other values")
    return orjson.dumps([*row]), orjson.dumps([*row.values()])
