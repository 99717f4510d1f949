"""What of a source file takes part in results, and what is only said."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.versions.code_version import _stamp
from storage.versions.meaning import meaning

Read = Callable[[str], tuple[str, frozenset[str]]]
BASE = """
import logging
import warnings
from typing import TYPE_CHECKING

log = logging.getLogger(__name__)

def f(x, rng):
    if x < 0:
        raise ValueError("x is negative")
    y = x + 1
    return y
"""


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def of(source: str) -> tuple[str, frozenset[str]]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(source)
        return meaning(path, _stamp(path))

    return of


def edited(old: str, new: str) -> str:
    assert BASE.count(old) == 1
    return BASE.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"x is negative"', "f'x is {x}, which is negative'"),
        ('"x is negative"', "'x is %s' % x"),
        ('"x is negative"', "'x is {}'.format(round(x))"),
        ('"x is negative"', '"x is " "negative" if x > 1 else "y"'),
        ("    y = x + 1\n", "    print('adding', x, file=None)\n    y = x + 1\n"),
        ("    y = x + 1\n", "    y = x + 1\n    print(f'{len(str(y))}')\n"),
        ("    y = x + 1\n", "    y = x + 1\n    log.warning('%d of %s', y, ', '.join([str(x)]))\n"),
        ("    y = x + 1\n", "    y = x + 1\n    warnings.warn('large')\n"),
        ("    y = x + 1\n", "    'A remark.'\n    pass\n    y: int = x + 1  # why\n"),
        ("def f(x, rng):", 'def f(x: "int", rng: object) -> int:'),
        ("\nlog =", "\nif TYPE_CHECKING:\n    from torch import Tensor\n\nlog ="),
    ],
)
def test_what_is_only_said_does_not_count(old: str, new: str, read: Read) -> None:
    assert read(edited(old, new)) == read(BASE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x + 1", "x + 2"),
        ("x + 1", "x - 1"),
        ("ValueError", "TypeError"),
        ('ValueError("x is negative")', 'ValueError("x is negative", x)'),  # somebody may read it
        ('raise ValueError("x is negative")', "return 'x is negative'"),
        ("    y = x + 1\n", "    print(rng.random())\n    y = x + 1\n"),  # a draw moves the next one
        ("    y = x + 1\n", "    log.info('%s', next(rng))\n    y = x + 1\n"),
        ("    y = x + 1\n", "    print(x := 2)\n    y = x + 1\n"),
        ("    y = x + 1\n", "    print(float(rng.random()))\n    y = x + 1\n"),
        ("    y = x + 1\n", "    x.info('words')\n    y = x + 1\n"),  # no log
        ("def f(x, rng):", "@validated\ndef f(x: int, rng):"),
        ("\nlog =", "\nclass A:\n    x: int = 1\n\nlog ="),
    ],
)
def test_what_it_does_counts(old: str, new: str, read: Read) -> None:
    assert read(edited(old, new))[0] != read(BASE)[0]


def test_the_annotations_of_a_class_count_for_what_is_made_of_it(read: Read) -> None:
    source = "class A:\n    x: {} = 1\n    def f(self, y: {}) -> {}:\n        z: {} = y\n"
    assert read(source.format("int", "int", "int", "int"))[0] != read(source.format("float", "int", "int", "int"))[0]
    assert read(source.format("int", "int", "int", "int"))[0] == read(source.format("int", "str", "A", "A"))[0]


def test_what_a_type_checker_imports_is_not_followed_and_what_else_runs_is(read: Read) -> None:
    source = (
        "if TYPE_CHECKING:\n    import a\nelse:\n    import b\nimport typing\nif typing.TYPE_CHECKING:\n    import c\n"
    )
    assert read(source)[1] == {"b", "typing"}
    assert read("def f():\n    from .x import y\n    __import__('z')\n")[1] == {".x", ".x.y", "z"}


def test_collection_goes_on_as_before(read: Read) -> None:
    assert gc.isenabled()
    read("x = 1\n")
    read("x =\n")
    assert gc.isenabled()
    gc.disable()
    read("x = 2\n")
    was, _ = gc.isenabled(), gc.enable()
    assert not was
