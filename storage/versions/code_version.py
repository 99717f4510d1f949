"""The version of the code that makes an artifact: a hash of its modules' meaning, for the keys of the store."""

import hashlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from data.errors import UserError
from storage.versions import user_modules
from storage.versions.meaning import meaning

ROOT = Path(__file__).resolve().parents[2]
OURS = ("data", "models", "unlearning", "metrics", "attacks", "defenses", "storage", "proofs", "games", "experiments")


Module = tuple[str, Path]  # a module's name and its file


def code_version(*items: Any) -> str:
    """SHA-256 over the code of the modules of `items` and of every module that these import, in hexadecimal.

    Args:
        items: modules, classes or functions; of the last two the module in which they are written counts, of any other
            object that of its class.

    The imports are read from the source, also those inside functions, and followed through our packages and through the
    user's own modules, but not into the standard library and installed packages. Of each file its `meaning` counts, so
    that only an edit of what it does invalidates what is stored. (The hash may differ between Python versions, whose
    syntax trees differ.)

    Raises:
        UserError: when an item has no file at all, as a class typed into a notebook.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_reachable(*(_source(item) for item in items))):
        digest.update(f"{name}\0{meaning(path, _stamp(path))[0]}\0".encode())
    return digest.hexdigest()


def _source(item: Any) -> Module:
    if isinstance(item, ModuleType):
        module: ModuleType | None = item
    else:
        owner = item if hasattr(item, "__qualname__") else type(item)
        module = sys.modules.get(owner.__module__)
    file = getattr(module, "__file__", None)
    if module is None or file is None or not Path(file).is_file():
        raise UserError(
            f"The source of {item!r:.80} cannot be found, so its results cannot be stored; "
            "write it in a file of its own, or set store.enabled=false."
        )
    path = Path(file).resolve()
    return _name(module.__name__, path), path


def _reachable(*starts: Module) -> set[Module]:
    found = {*starts, *(each for name, path in starts if not _is_ours(path) for each in user_modules.files(name))}
    todo, followed = list(found), set[str]()
    while todo:
        name, path = todo.pop()
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        for other in {_absolute(each, package) for each in meaning(path, _stamp(path))[1]} - followed:
            if other.partition(".")[0] in OURS:
                new = set(_files(other)) - found
            elif not _is_ours(path):  # ours import nothing of the user's
                followed.add(other)
                new = set(user_modules.files(other)) - found
            else:
                continue
            found |= new
            todo.extend(new)
    return found


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS


def _name(name: str, path: Path) -> str:
    """A name that is the same on every machine: the place in our tree, or the name under which it is imported."""
    if not _is_ours(path):
        return name
    place = path.relative_to(ROOT).with_suffix("")
    return ".".join(place.parent.parts if place.name == "__init__" else place.parts)


def _absolute(name: str, package: str) -> str:
    """A relative name, such as `..helper`, as seen from `package`; the empty name where it leads nowhere."""
    if not name.startswith("."):
        return name
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:  # beyond the top, or no package at all: Python would not import it either
        return ""


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@cache  # names recur at every import; which modules there are does not change while a process runs
def _files(name: str) -> tuple[Module, ...]:
    """The module `name` of ours and its parent packages; nothing if `name` is not a module."""
    parts = name.split(".")
    stems = [ROOT.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    found = [[path for path in (stem / "__init__.py", stem.with_suffix(".py")) if path.is_file()] for stem in stems]
    return tuple((_name("", paths[0]), paths[0]) for paths in found if paths)
