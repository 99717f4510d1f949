"""What lies in the store, and what may be removed from it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout

from data.errors import UserError
from storage.artifact import KINDS, PROOFS, STAYS, Damaged, lock, read_content, read_description, sidecar

DAY = 86_400.0
MINUTE = 60.0
KIND = re.compile(r"[a-z0-9_-]+")
ARTIFACT = re.compile(r"[0-9a-f]{64}\.(safetensors|json)")
LEFTOVER = re.compile(r"([0-9a-f]{64}\.(?:safetensors|json))(?:(?:\.json)?\.\d+-[0-9a-f]+\.tmp|\.lock)")
PROBE = re.compile(r"check-\d+(\.\d+-[0-9a-f]+\.tmp)?")  # of `Store.check`, which takes a moment


@dataclass(frozen=True)
class Artifact:
    """One stored artifact: its main file, all its files, their size in bytes, age in days, and its key as it stands.

    `damage` says what is wrong with its description, which is all that was looked at.
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    age: float
    key: Mapping[str, Any] = field(default_factory=dict)
    damage: str | None = None

    @property
    def kind(self) -> str:
        """The kind of artifact, which is the name of its folder."""
        return self.path.parent.parent.name


def kinds(folder: Path) -> list[str]:
    """The kinds of artifacts: those of the toolkit, and others that the store has."""
    own = (each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else ()
    return sorted({*KINDS, *(name for name in own if KIND.fullmatch(name))})


def artifacts(folder: Path, kind: str | None = None) -> Iterator[Artifact]:
    """The artifacts of `folder`, of one kind or of all, by name; damaged ones are among them.

    Raises UserError for a kind that does not exist.
    """
    for path in _files(folder, kind):
        if not ARTIFACT.fullmatch(path.name):
            continue
        files = tuple(p for p in (path, sidecar(path)) if p.is_file())
        damage, key = None, None
        try:
            size, modified = sum(file.stat().st_size for file in files), path.stat().st_mtime
            description = read_description(path)
            key = {} if description is None else description.get("key")
        except OSError:  # removed by another process in this moment, or not ours to read
            continue
        except Damaged as error:
            description, damage = {}, str(error)
        if description is not None:
            age = (time.time() - modified) / DAY
            yield Artifact(path, files, size, age, key if isinstance(key, dict) else {}, damage)


def leftovers(folder: Path, kind: str | None = None) -> Iterator[tuple[Path, Path | None]]:
    """Files that a killed process may have left, with the main file of their artifact: no reader looks at them.

    What it left in the store's own folder belongs to no artifact, and to no kind.
    """
    for path in sorted(folder.iterdir()) if kind is None and folder.is_dir() else ():
        if PROBE.fullmatch(path.name) and time.time() - path.stat().st_mtime > MINUTE:
            yield path, None
    for path in _files(folder, kind):
        of = LEFTOVER.fullmatch(path.name)
        main_file = path.with_name(of[1]) if of else path
        if not of and path.suffix == ".safetensors" and not sidecar(path).exists():
            yield path, path
        elif of and not (path.suffix == ".lock" and main_file.exists()):
            yield path, main_file


def abandoned(folder: Path) -> Iterator[Path]:
    """Folders of proofs that nobody wanted to keep: of games that are played now, or that were killed."""
    for path in sorted((folder / PROOFS).iterdir()) if (folder / PROOFS).is_dir() else ():
        if path.is_dir() and not path.is_symlink() and not (path / STAYS).exists():
            yield path


def _files(folder: Path, kind: str | None) -> list[Path]:
    known = kinds(folder)
    if kind is not None and kind not in known:
        raise UserError(f"There is no kind of artifact {kind!r}; the kinds are {', '.join(known)}.")
    found = (path for each in known if kind in (None, each) for path in sorted((folder / each).glob("??/*")))
    return [path for path in found if path.is_file() or not path.exists()]  # reading a pipe would never end


def is_damaged(artifact: Artifact) -> bool:
    """Whether the artifact's content or key is not what was written; reads all of it."""
    try:
        return read_content(artifact.path) is None
    except (Damaged, OSError):
        return True


def chosen(folder: Path, kind: str | None = None, older_than: float = 0.0, damaged: bool = False) -> list[Artifact]:
    """The artifacts that meet every condition (one kind, an age in days, being damaged), and that nobody writes now."""
    found = []
    for artifact in artifacts(folder, kind):
        if artifact.age >= older_than:
            with _held(artifact.path) as free:
                if free and (not damaged or is_damaged(artifact)):
                    found.append(artifact)
    return found


def remove(found: Sequence[Artifact]) -> None:
    """Remove these artifacts; one that a process is computing or writing is left alone."""
    for artifact in found:
        with _held(artifact.path) as free:
            for file in reversed(artifact.files) if free else ():  # the description first: without it there is none
                file.unlink(missing_ok=True)


def strays(folder: Path, kind: str | None = None, dry_run: bool = False) -> tuple[int, int]:
    """Remove (or only count) what killed processes left; the number of files and their bytes."""
    left, freed = 0, 0
    for file, main_file in list(leftovers(folder, kind)):
        with _held(main_file, file if dry_run else None) as free, suppress(FileNotFoundError):
            if free:
                left, freed = left + 1, freed + file.stat().st_size
                if not dry_run:
                    file.unlink()
    for proof in abandoned(folder) if kind is None else ():
        with _held(proof) as free, suppress(FileNotFoundError):
            sizes = [each.stat().st_size for each in proof.rglob("*") if each.is_file()] if free else []
            left, freed = left + len(sizes), freed + sum(sizes)
            if free and not dry_run:
                shutil.rmtree(proof)
    return left, freed


@contextmanager
def _held(path: Path | None, keep: Path | None = None) -> Iterator[bool]:
    """Hold the lock of the artifact at `path` if nobody else does, and say whether.

    The file of a lock without an artifact goes with it, unless it is the one to `keep`.
    """
    if path is None:
        yield True
        return
    guard = lock(path)
    try:
        guard.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
        if not path.exists() and Path(guard.lock_file) != keep:
            Path(guard.lock_file).unlink(missing_ok=True)
    finally:
        guard.release()
