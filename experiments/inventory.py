"""What lies in the store, and how to make room: `python experiments/store.py list|prune`."""

import argparse
import json
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from data.errors import UserError
from experiments.artifact import Damaged, lock, read_content, read_description, sidecar
from experiments.store import default_folder

DAY = 86_400.0
ARTIFACT = re.compile(r"[0-9a-f]{64}\.(safetensors|json)")
LEFTOVER = re.compile(r"([0-9a-f]{64}\.(?:safetensors|json))(?:\.json)?\.\d+-[0-9a-f]+\.tmp")


@dataclass(frozen=True)
class Artifact:
    """One stored artifact: its main file, all its files, their size in bytes, age in days, and its key in short."""

    path: Path
    files: tuple[Path, ...]
    size: int
    age: float
    toolkit: str
    key: str

    @property
    def kind(self) -> str:
        """The kind of artifact, which is the name of its folder."""
        return self.path.parent.parent.name


def artifacts(folder: Path, kind: str | None = None) -> Iterator[Artifact]:
    """The artifacts of `folder`, of one kind or of all, by name; damaged ones are among them."""
    for path in sorted(folder.glob(f"{kind or '*'}/??/*")):
        if not ARTIFACT.fullmatch(path.name):
            continue
        files = tuple(p for p in (path, sidecar(path)) if p.is_file())
        try:
            size, modified = sum(file.stat().st_size for file in files), path.stat().st_mtime
            description = read_description(path)
        except OSError:  # removed by another process in this moment, or not ours to read
            continue
        except Damaged:
            description = {"toolkit": "?", "key": "damaged"}
        if description is not None:
            key = textwrap.shorten(json.dumps(description.get("key")), 60, placeholder="…")
            age = (time.time() - modified) / DAY
            yield Artifact(path, files, size, age, str(description.get("toolkit", "?")), key)


def leftovers(folder: Path, kind: str | None = None) -> Iterator[tuple[Path, Path]]:
    """Files that a killed process may have left (with the main file of their artifact): no reader looks at them."""
    for path in sorted(folder.glob(f"{kind or '*'}/??/*")):
        if match := LEFTOVER.fullmatch(path.name):
            yield path, path.with_name(match[1])
        elif path.suffix == ".safetensors" and not sidecar(path).exists():
            yield path, path


def is_damaged(artifact: Artifact) -> bool:
    """Whether the artifact's content or key is not what was written; reads all of it."""
    try:
        return read_content(artifact.path) is None
    except (Damaged, OSError, ValueError):  # a ValueError when the folder's name is no kind
        return True


def prune(
    folder: Path, kind: str | None = None, older_than: float = 0.0, damaged: bool = False, dry_run: bool = False
) -> tuple[int, int, int]:
    """Remove artifacts that meet every condition given (all, without one) and what killed processes left.

    An artifact that a process is computing or writing is left alone.

    Args:
        folder: the store.
        kind: only artifacts of this kind.
        older_than: only artifacts of at least this many days.
        damaged: only artifacts that fail their check.
        dry_run: remove nothing, only count.

    Returns:
        The number of artifacts, the number of left-over files, and the bytes that both take.
    """
    removed, left, freed = 0, 0, 0
    for artifact in artifacts(folder, kind):
        if artifact.age < older_than:
            continue
        with _held(artifact.path) as free:
            if free and (not damaged or is_damaged(artifact)):
                removed, freed = removed + 1, freed + artifact.size
                if not dry_run:
                    for file in reversed(artifact.files):  # the description first: without it the artifact is absent
                        file.unlink(missing_ok=True)
    for file, main_file in leftovers(folder, kind):
        with _held(main_file) as free, suppress(FileNotFoundError):
            if free:
                left, freed = left + 1, freed + file.stat().st_size
                if not dry_run:
                    file.unlink()
    return removed, left, freed


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold the lock of the artifact at `path` if nobody else does, and say whether; the lock's file goes with it."""
    guard = lock(path)
    try:
        guard.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
        if not path.exists():
            Path(guard.lock_file).unlink(missing_ok=True)
    finally:
        guard.release()


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _list(folder: Path, kind: str | None, older_than: float) -> None:
    found = [artifact for artifact in artifacts(folder, kind) if artifact.age >= older_than]
    rows = [(a.kind, a.path.name[:12], _size(a.size), f"{a.age:.1f}", a.toolkit, a.key) for a in found]
    heads = ("kind", "artifact", "size", "days", "toolkit", "key")
    if not rows:
        print(f"The store {folder} has no artifacts" + (f" of kind {kind}." if kind else "."))
        return
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*heads, box=None)
        for row in rows:
            table.add_row(*row)
        Console().print(table, markup=False)
    else:
        for row in (heads, *rows):
            print("\t".join(row))
    print(f"{len(found)} artifacts, {_size(sum(a.size for a in found))} in {folder}")


def _days(text: str) -> float:
    days = float(text)
    if not days >= 0:
        raise ValueError(text)
    return days


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("store.py", description="List or prune the store of victims and finished games.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("list", "show the artifacts and their total size"),
        ("prune", "remove artifacts (all, or those that meet every condition) and what killed runs left"),
    ):
        command = verbs.add_parser(verb, help=text, description=text)
        command.add_argument("--dir", type=Path, help=f"the store's folder (default: {default_folder()})")
        command.add_argument("--kind", help="only this kind of artifact")
        command.add_argument("--older-than", type=_days, default=0.0, metavar="DAYS", help="only artifacts of this age")
        if verb == "prune":
            command.add_argument("--damaged", action="store_true", help="only artifacts that fail their check")
            command.add_argument("--dry-run", action="store_true", help="say what would be removed, remove nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after a mistake of the user's."""
    args = _arguments().parse_args(argv)
    try:
        if args.dir is not None and not args.dir.is_dir():
            raise UserError(f"There is no store in {args.dir}; give the folder with --dir FOLDER.")
        folder = args.dir or default_folder()
        if args.verb == "list":
            _list(folder, args.kind, args.older_than)
            return 0
        removed, left, freed = prune(folder, args.kind, args.older_than, args.damaged, args.dry_run)
        does = "Would remove" if args.dry_run else "Removed"
        print(f"{does} {removed} artifacts and {left} left-over files ({_size(freed)}) in {folder}.")
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"Error: {error.filename or args.dir}: {error.strerror}; is the folder yours to change?", file=sys.stderr)
        return 2
    return 0
