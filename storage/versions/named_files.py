"""Files that options name, such as the weights of a user's own model: results depend on what is in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

LONGEST = 4096  # characters of a path
WHOLE = 2**31  # bytes of a file that are read; of a larger one its ends, its size and the time of its last change
END = 2**26
MOST = 10_000  # files of a folder that count


def contents(options: Any) -> dict[str, str]:
    """By the text of each option in a nested configuration that names a file, or a folder by a path: a hash of it.

    A word without a separator that happens to be a folder of the working directory is a word.
    """
    found = {}
    for text in sorted(set(_texts(options))):
        path = os.path.expanduser(text) if text.startswith("~") else text  # Path is slow: a sweep asks often
        if os.path.isfile(path):
            found[text] = _file(Path(path))
        elif os.sep in path.strip(".") and os.path.isdir(path):
            found[text] = _folder(Path(path))
    return found


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key != "_target_":
                yield from _texts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value)
    elif isinstance(node, str) and 0 < len(node) <= LONGEST and "\0" not in node:
        yield node


def _file(path: Path) -> str:
    stat = path.stat()
    return digest(str(path.resolve()), stat.st_mtime_ns, stat.st_size)


def _folder(path: Path) -> str:
    found = sorted(each for each in path.rglob("*") if each.is_file())[:MOST]
    together = hashlib.blake2b(digest_size=16)
    for each in found:
        together.update(f"{each.relative_to(path).as_posix()}\0{_file(each)}\0".encode())
    return together.hexdigest()


@cache  # a file that is edited has another time or size
def digest(path: str, changed: int, size: int) -> str:
    """A hash of the content of a file, as far as it is read."""
    found = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        if size <= WHOLE:
            while part := file.read(2**20):
                found.update(part)
        else:
            found.update(f"{size} {changed}".encode() + file.read(END))
            file.seek(-END, os.SEEK_END)
            found.update(file.read())
    return found.hexdigest()
