"""Paths as users write them: asking about one never raises, and what reading raises is said in one line."""

from __future__ import annotations

from pathlib import Path


def expanded(path: Path) -> Path:
    """The path with `~` and `~user` as the folders that they stand for; a user who is not here stays as written."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_file(path: Path) -> bool:
    """Whether this is a regular file; a path that the system cannot even look up is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether this is a folder; a path that the system cannot even look up is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def reason(error: BaseException) -> str:
    """What an error of reading says, in one line, or what it is where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0].strip().removesuffix(".") if lines else type(error).__name__
