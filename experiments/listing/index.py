"""An index of a store's games: their rows in a file, brought up to date with the records whenever it is read.

The records are the truth, and each is verified when its rows are taken from it. The index is a cache that may be
deleted at any time: a record whose file is another since, or has changed (by identity, times or size), is read again,
one that is gone is dropped, and an edit of what makes rows (the code of the games) starts it anew. So does any doubt:
all of it is compared with a check sum whenever it is read.
"""

from __future__ import annotations

import hashlib
import inspect
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import orjson  # several times faster than the standard library

from data.paths import reason
from experiments.listing.row import GROUPS, rows, usual
from games.game import Game, Metric
from models.progress import progress
from storage.artifact import Damaged, read_record
from storage.records import write_atomic

RECORD = re.compile(r"[0-9a-f]{64}\.json")
BATCH = 250  # records that one process reads at a time
MANY = 5 * BATCH  # records for which it does not yet pay to start processes
NAME, SHORT = "games.index", "games.usual.index"  # of every metric, and of the usual ones
FOLDER = "name the folder that has it with --config-dir"  # where the record is whole, and its game is missing
# What a record that is whole, and yet no game of this version, makes `rows` raise.
UNFIT = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
PLAIN = {str, bool, int, float, type(None)}

Line = tuple[tuple[str, ...], list[Any]]  # the columns of a row, and its values
Made = list[Line] | str  # the rows of one record, or why it could not be read


@dataclass
class Index:
    """The rows of games: by name the stamp of the record's file, and for each row its shape and values.

    A shape is the place in `shapes` of the names of the columns, which thousands of rows share.
    """

    games: dict[str, tuple[str, list[tuple[int, list[Any]]]]] = field(default_factory=dict)
    shapes: list[tuple[str, ...]] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)

    def parts(self) -> Iterator[tuple[tuple[str, ...], list[list[Any]]]]:
        """For every shape that occurs its columns and the values of its rows, by the names of the games."""
        by_shape: dict[int, list[list[Any]]] = {}
        for shape, values in chain.from_iterable(self.games[name][1] for name in sorted(self.games)):
            by_shape.setdefault(shape, []).append(values)
        return ((self.shapes[shape], values) for shape, values in by_shape.items())


def read(folder: Path, games: Mapping[str, Game], notify: Callable[[str], None], short: bool = False) -> Index:
    """The rows of every record in the store `folder`; the index is made, updated or, where it is damaged, replaced.

    `games` are those that there are, by name: a record of another one is unreadable. `short` rows have `usual` metrics
    and an index of their own. Where the folder cannot be written the rows are not kept, which `notify` is told.
    """
    found, path, version = dict(_records(folder)), folder / (SHORT if short else NAME), _version(games)
    index, before = Index(), Index()
    try:
        before = _load(path.read_bytes(), version)
    except FileNotFoundError:
        pass
    except (OSError, Damaged) as error:
        notify(f"The index of the games in {path} is damaged ({error}); it is made anew.")
    index.shapes = before.shapes
    index.games = {name: entry for name, entry in before.games.items() if found.get(name) == entry[0]}
    paths = [folder / "game" / name[:2] / f"{name}.json" for name in found if name not in index.games]
    for file, made in zip(paths, _made(paths, games, usual(games.values()) if short else None), strict=True):
        if isinstance(made, str):
            index.unreadable.append((file, made))
        else:
            index.shapes += {columns: None for columns, _ in made if columns not in index.shapes}
            shaped = [(index.shapes.index(columns), values) for columns, values in made]
            index.games[file.stem] = (found[file.stem], shaped)
    if index.games != before.games:
        try:
            body = orjson.dumps({"version": version, "shapes": index.shapes, "games": index.games})
            write_atomic(path, _checksum(body).encode() + b"\n" + body)
        except OSError as error:
            notify(f"The index of the games cannot be kept in {path} ({error}); every record is read instead.")
    return index


def _load(content: bytes, version: str) -> Index:
    """The index of a file's content, an empty one of another version; raises Damaged where it was not written so."""
    seal, _, body = content.partition(b"\n")
    if seal != _checksum(body).encode():
        raise Damaged("its content has changed")
    kept = orjson.loads(body)
    return Index(kept["games"], [*map(tuple, kept["shapes"])]) if kept["version"] == version else Index()


def _version(games: Mapping[str, Game]) -> str:
    """A check sum of the code that makes rows: this module, `row`, the role and the games."""
    files = [Path(__file__), *(Path(inspect.getfile(each)) for each in (rows, Metric, Game))]
    for _, game in sorted(games.items()):
        file = Path(inspect.getfile(type(game)))
        files += sorted(file.parent.glob("*.py")) if (file.parent / "__init__.py").is_file() else [file]
    return _checksum(*(file.read_bytes() for file in files))


def _checksum(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _records(folder: Path) -> Iterator[tuple[str, str]]:
    """The name of every record of a game and a stamp of its file, which any writing or replacing of it changes."""
    games = folder / "game"
    for part in sorted(os.scandir(games), key=lambda entry: entry.name) if games.is_dir() else ():
        for entry in os.scandir(part.path) if part.is_dir() else ():
            if RECORD.fullmatch(entry.name) and os.path.isfile(entry.path):  # links in a circle included
                stat = entry.stat()
                yield entry.name[:64], f"{stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {stat.st_size}"


def _made(paths: Sequence[Path], games: Mapping[str, Game], only: frozenset[str] | None) -> Iterator[Made]:
    """What `_rows_of` gives for all `paths`; many of them are read by all cores."""
    one = partial(_rows_of, games=games, only=only)
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, 8)
    with progress("reading records", len(paths)) as tick, ExitStack() as stack:
        made: Iterator[Made] = map(one, paths)
        if len(paths) > MANY and workers > 1:
            spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn))
            made = pool.map(one, paths, chunksize=BATCH)
        for each in made:
            yield each
            tick()


def _rows_of(path: Path, games: Mapping[str, Game], only: frozenset[str] | None) -> Made:
    try:
        found = read_record(path)
        if found is None:
            return "it is gone"
        record: dict[str, Any] = orjson.loads(found[1])
        if "game" in record and record["game"] not in games:
            return f"its game {record['game']!r:.40} is not known here; {FOLDER}"
        where = path.stem, str(path.resolve()), str(found[0]["created"])
        return [_line(row) for row in rows(games[record["game"]], record, where, only)]
    except (Damaged, OSError) as error:
        return reason(error)
    except UNFIT:
        return "it has not the form of a game, or an older one"


def _line(row: Mapping[str, Any]) -> Line:
    """The columns and the values of a row; raises ValueError for values of other types than views need."""
    named = all(isinstance(row[name], str) for name in ("part", "heading", *GROUPS))
    if type(row["seed"]) is not int or not named or not set(map(type, row.values())) <= PLAIN:
        raise ValueError("a row of other types")
    return tuple(row), orjson.loads(orjson.dumps([*row.values()]))  # as it will be when it is read again
