"""The files of a proof: their names, which no index may say, and opening them without being led elsewhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

INDEX, RECORDS = "index.jsonl", "records.sha256"


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.bin"


def opened(path: Path) -> BinaryIO:
    """A regular file, opened for reading without a buffer.

    Raises OSError for whatever else stands there: a link would lead out of the folder that was handed over, and a pipe
    would wait for ever.
    """
    if path.is_symlink():
        raise OSError(0, "it is a link, and a proof has none")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def size_of(file: BinaryIO) -> int:
    """How many bytes an open file has."""
    return os.fstat(file.fileno()).st_size
