"""What of a source file takes part in results: its syntax tree without comments, layout and what is only said."""

from __future__ import annotations

import ast
import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

LOGS = {"log", "logger", "logging"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
HARMLESS = {"abs", "bool", "float", "format", "int", "isinstance", "len", "range", "repr", "round", "str", "type"}
NOT_READ = ("ctx", "kind", "type_comment")  # follow from where a node stands, or change nothing
FIELDS: dict[type, tuple[str, ...]] = {}


@cache
def meaning(path: Path, stamp: tuple[int, int]) -> tuple[str, frozenset[str]]:
    """A text that changes with what the file does, and the names that it may import (some are attributes, not modules).

    Nothing changes for comments, docstrings and layout; for the words of a `raise`; for a statement that prints, logs
    or warns, but for calls in it that may do something else; for what only a type checker reads: `if TYPE_CHECKING:`
    and annotations, but for those of decorated functions and in the body of a class, of which something may be made.
    Of a file that is no Python every byte counts. `stamp` stands for the file's state.
    """
    content = path.read_bytes()
    try:
        if path.suffix != ".py":
            raise ValueError("no source")
        with _uncollected():
            writer = _Writer()
            writer.write(ast.parse(content, filename=str(path)))  # of bytes, which it decodes as Python does
    except (SyntaxError, ValueError):
        return hashlib.sha256(content).hexdigest(), frozenset()
    return " ".join(writer.text), frozenset(writer.names)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which takes two thirds of the time of parsing, and finds nothing."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Writer:
    """Writes a tree and notes what it imports, in one pass: a game starts with a hundred files."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.names: set[str] = set()
        self.annotated = False  # whether annotations count here

    def write(self, node: Any) -> None:
        """Write a node, a list of nodes, or a plain value."""
        if isinstance(node, ast.AST):
            special = SPECIAL.get(type(node))
            if special is None or not special(self, node):
                self.fields(node)
        elif isinstance(node, list):
            self.text.append("[")
            for each in node:
                self.write(each)
            self.text.append("]")
        else:
            self.text.append(repr(node))

    def fields(self, node: ast.AST, *without: str) -> None:
        """Write the kind of a node and its fields."""
        kind = type(node)
        if kind not in FIELDS:
            FIELDS[kind] = tuple(name for name in kind._fields if name not in NOT_READ)
        self.text.append(kind.__name__)
        for name in FIELDS[kind]:
            if name not in without:
                self.write(getattr(node, name, None))

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        with self._where(annotated=bool(node.decorator_list)):
            self.fields(node, "body", *(() if self.annotated else ("returns",)))
        with self._where(annotated=False):
            self.write(node.body)
        return True

    def _class(self, node: ast.ClassDef) -> bool:
        with self._where(annotated=True):
            self.fields(node)
        return True

    @contextmanager
    def _where(self, annotated: bool) -> Iterator[None]:
        outside, self.annotated = self.annotated, annotated
        yield
        self.annotated = outside

    def _argument(self, node: ast.arg) -> bool:
        self.fields(node, *(() if self.annotated else ("annotation",)))
        return True

    def _annotated(self, node: ast.AnnAssign) -> bool:
        if self.annotated or node.value is None:
            return False
        self.fields(ast.Assign([node.target], node.value))
        return True

    def _import(self, node: ast.Import) -> bool:
        self.names.update(alias.name for alias in node.names)
        return False

    def _import_from(self, node: ast.ImportFrom) -> bool:
        base = "." * node.level + (node.module or "")
        self.names.add(base)
        self.names.update(f"{base}{'' if base.endswith('.') else '.'}{alias.name}" for alias in node.names)
        return False

    def _call(self, node: ast.Call) -> bool:
        """A call of `import_module` or `__import__` that names a module in words imports it."""
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self.names.update([node.args[0].value] if isinstance(node.args[0].value, str) else [])
        return False

    def _if(self, node: ast.If) -> bool:
        if getattr(node.test, "id", getattr(node.test, "attr", "")) != "TYPE_CHECKING":
            return False
        for each in node.orelse:
            self.write(each)
        return True

    def _expression(self, node: ast.Expr) -> bool:
        """A statement that is a constant, such as a docstring, does nothing; one that says something hardly more."""
        if isinstance(node.value, ast.Constant):
            return True
        if not _says(node.value):
            return False
        for each in _effects(node.value):
            self.write(each)
        return True

    def _raise(self, node: ast.Raise) -> bool:
        if isinstance(node.exc, ast.Call):
            called = node.exc
            called.args = [each for each in called.args if not _is_words(each)]
            called.keywords = [each for each in called.keywords if not _is_words(each.value)]
        return False


SPECIAL: dict[type, Any] = {
    ast.FunctionDef: _Writer._function, ast.AsyncFunctionDef: _Writer._function, ast.ClassDef: _Writer._class,
    ast.arg: _Writer._argument, ast.AnnAssign: _Writer._annotated, ast.Import: _Writer._import,
    ast.ImportFrom: _Writer._import_from, ast.Call: _Writer._call, ast.If: _Writer._if, ast.Expr: _Writer._expression,
    ast.Raise: _Writer._raise, ast.Pass: lambda *_: True,
}  # fmt: skip


def _says(node: ast.expr) -> bool:
    """Whether this is a call of `print`, `warnings.warn` or a method of a log."""
    match node:
        case ast.Call(func=ast.Name(id="print")):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)):
            return (name in LOGS and attr in LEVELS) or (name, attr) == ("warnings", "warn")
    return False


def _effects(node: ast.AST) -> Iterator[ast.AST]:
    """What may do something within a call that says something: a draw, say, in what it is given."""
    for each in ast.iter_child_nodes(node):
        match each:
            case ast.Call(func=ast.Name(id=name)) if name in HARMLESS:
                yield from _effects(each)
            case ast.Call(func=ast.Attribute(value=said)) if _is_words(said):
                yield from _effects(each)
            case ast.Call() | ast.NamedExpr() | ast.Await() | ast.Yield() | ast.YieldFrom():
                yield each
            case _:
                yield from _effects(each)


def _is_words(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.BinOp(left=left, right=right):
            return _is_words(left) or _is_words(right)
        case ast.IfExp(body=body, orelse=orelse):
            return _is_words(body) and _is_words(orelse)
        case ast.Call(func=ast.Attribute(value=said)):
            return _is_words(said)
    return False
