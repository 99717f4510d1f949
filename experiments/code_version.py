"""The version of the code that makes an artifact: a hash of its modules' meaning, for the keys of the store."""

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from data.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
OURS = ("data", "models", "unlearning", "metrics", "attacks", "defenses", "experiments")


def code_version(*items: Any) -> str:
    """SHA-256 over the code of the modules of `items` and of every module of ours that these import, in hexadecimal.

    Args:
        items: modules, classes or functions; of the last two the module in which they are written counts, of any other
            object that of its class.

    The imports are read from the source, also those inside functions, and followed through our packages only; a
    user's own module counts itself. Comments, docstrings and layout do not count, so that only an edit of meaning
    invalidates what is stored. (The hash may differ between Python versions, whose syntax trees differ.)

    Raises:
        UserError: when the source of an item cannot be found, as for a class typed into a notebook.
    """
    paths = _reachable(*(_source(item) for item in items))
    digest = hashlib.sha256()
    for name, path in sorted((_name(path), path) for path in paths):
        digest.update(f"{name}\0{_parsed(path, _stamp(path))[0]}\0".encode())
    return digest.hexdigest()


def _source(item: Any) -> Path:
    if isinstance(item, ModuleType):
        module: ModuleType | None = item
    else:
        owner = item if hasattr(item, "__qualname__") else type(item)
        module = sys.modules.get(owner.__module__)
    file = getattr(module, "__file__", None)
    if module is None or file is None or not file.endswith(".py"):
        raise UserError(
            f"The source of {item!r:.80} cannot be found, so its results cannot be stored; "
            "write it in a file of its own, or set store.enabled=false."
        )
    return Path(inspect.getsourcefile(module) or file).resolve()


def _reachable(*starts: Path) -> set[Path]:
    found, todo = set(starts), [*starts]
    while todo:
        path = todo.pop()
        new = {p for name in _parsed(path, _stamp(path))[1] for p in _files(name)} - found
        found |= new
        todo.extend(new)
    return found


def _name(path: Path) -> str:
    """A name that is the same on every machine: the place in our tree, or only the file's name outside it."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else f"user/{path.name}"


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@cache  # names recur at every import; which modules there are does not change while a process runs
def _files(name: str) -> tuple[Path, ...]:
    """The file of the module `name` of ours and those of its parent packages; nothing if `name` is not a module."""
    parts = name.split(".")
    stems = [ROOT.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    files = [[path for path in (stem / "__init__.py", stem.with_suffix(".py")) if path.is_file()] for stem in stems]
    return tuple(found[0] for found in files if found)


@cache
def _parsed(path: Path, stamp: tuple[int, int]) -> tuple[str, frozenset[str]]:
    """The meaning of a file, and the names of ours that it may import (some may be attributes, not modules)."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    package = ".".join(path.parent.relative_to(ROOT).parts) if path.is_relative_to(ROOT) else ""
    names = frozenset(n for n in _imports(tree, package) if n.partition(".")[0] in OURS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return ast.dump(tree), names


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level and not package:
                continue  # relative to a user's own package, which is not followed
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            node.body = rest or [ast.Pass()]
