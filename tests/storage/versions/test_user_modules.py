"""Code of the user's own: what its modules import counts, however they say so, and the files that options name."""

from __future__ import annotations

import importlib
import os
import py_compile
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.errors import UserError
from experiments.play import identity
from storage.versions import named_files, user_modules
from storage.versions.code_version import _reachable, _source, code_version

Write = Callable[..., str]
MODULE = "my_own_code"  # a name that nothing else has
HELPERS = {
    "import": ("import {0}_helper\n", "{0}_helper.py"),
    "from": ("from {0}_helper import value\n", "{0}_helper.py"),
    "star": ("from {0}_helper import *\n", "{0}_helper.py"),
    "inside a function": ("def f():\n    from {0}_helper import value\n", "{0}_helper.py"),
    "two steps": ("import {0}_between\n", "{0}_helper.py"),
    "of a package": ("from {0}_package import module\n", "{0}_package/module.py"),
    "dotted": ("import {0}_package.module\n", "{0}_package/module.py"),
    "parent of a package": ("import {0}_package.module\n", "{0}_package/__init__.py"),
    "relative": ("import {0}_package.relative\n", "{0}_package/module.py"),
    "relative, upwards": ("import {0}_package.inner.deep\n", "{0}_package/module.py"),
    "namespace package": ("import {0}_space.module\n", "{0}_space/module.py"),
    "by its name": ("import importlib\nimportlib.import_module('{0}_helper')\n", "{0}_helper.py"),
}
TREE = {
    "{0}_helper.py": "value = 1\n", "{0}_between.py": "import {0}_helper\n", "{0}_package/__init__.py": "",
    "{0}_package/module.py": "value = 1\n", "{0}_package/relative.py": "from . import module\n",
    "{0}_package/inner/__init__.py": "", "{0}_package/inner/deep.py": "from ..module import value\n",
    "{0}_space/module.py": "value = 1\n",
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a user's module with what it may import, and give its code version anew, as a new process would."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def version(source: str | bytes, **edited: str) -> str:
        for name, text in {**TREE, **edited}.items():
            path = tmp_path / name.format(MODULE)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(MODULE))
        content = source if isinstance(source, bytes) else source.format(MODULE).encode()
        (tmp_path / f"{MODULE}.py").write_bytes(content + b"\nclass Mine:\n    x = 1\n")
        _forget()
        importlib.invalidate_caches()
        return code_version(importlib.import_module(MODULE).Mine)

    yield version
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.startswith(MODULE)]:
        del sys.modules[name]


@pytest.mark.parametrize("case", HELPERS)
def test_what_a_users_module_imports_counts(own: Write, case: str) -> None:
    source, helper = HELPERS[case]
    before = own(source)
    assert own(source) == before
    assert own(source, **{helper: "# said otherwise\n" + TREE[helper]}) == before
    assert own(source, **{helper: "value = 2\n"}) != before
    assert own("import json\n", **{helper: "value = 2\n"}) == own("import json\n")  # what is not imported does not


def test_nothing_is_executed_to_find_it(own: Write, tmp_path: Path) -> None:
    """Parents of an import inside a function have not been executed yet, and are not by looking for it."""
    touched = tmp_path / "touched"
    package = {"{0}_package/__init__.py": f"open({str(touched)!r}, 'w')\n"}
    own("def f():\n    import {0}_package.module\n", **package)
    assert {path.name for _, path in _reachable(_source(sys.modules[MODULE]))} >= {"__init__.py", "module.py"}
    assert not touched.exists()


def test_libraries_are_not_followed(own: Write) -> None:
    plain = own("x = 1\n")
    assert [path.name for _, path in _reachable(_source(sys.modules[MODULE]))] == [f"{MODULE}.py"]
    own("import json, torch, numpy.linalg, sys\nfrom torch.nn import functional\ndef f():\n  import not_there\n")
    assert [path.name for _, path in _reachable(_source(sys.modules[MODULE]))] == [f"{MODULE}.py"]
    assert own("x = 1\n") == plain
    for name in ("sys", "json.decoder", "torch.nn", "not_there", "not_there.at_all", ""):
        assert list(user_modules.files(name)) == []


BODY = "class A:  # M\u00fcller\n    name = 'M\u00fcller'\n"


def test_source_is_read_as_python_reads_it(own: Write) -> None:
    """With a byte-order mark, other ends of lines, or in a declared encoding it means the same."""
    plain = own(BODY.encode())
    assert own(b"\xef\xbb\xbf" + BODY.encode()) == plain
    assert own(BODY.replace("\n", "\r\n").encode()) == plain
    assert own(b"# -*- coding: latin-1 -*-\n" + BODY.encode("latin-1")) == plain
    assert own(BODY.replace("'M", "'N").encode()) != plain


def test_a_helper_that_does_not_parse_or_has_no_source_counts_by_its_bytes(own: Write, tmp_path: Path) -> None:
    source = "def f():\n    import {0}_helper\n"
    broken = own(source, **{"{0}_helper.py": "print 'Python 2'\n"})
    assert own(source, **{"{0}_helper.py": "print 'Python 3'\n"}) != broken
    compiled = []
    for text in ("x = 1\n", "x = 2\n", "x = 1\n"):
        (tmp_path / "text.py").write_text(text)
        file = tmp_path / f"{MODULE}_only.pyc"
        py_compile.compile(str(tmp_path / "text.py"), str(file), invalidation_mode=py_compile.PycInvalidationMode(2))
        compiled.append(own(f"import {MODULE}_only\n"))
    assert compiled[0] == compiled[2] != compiled[1]
    assert len(code_version(sys.modules[f"{MODULE}_only"])) == 64


def test_what_has_no_file_is_refused_with_the_way_out_and_plays_without_a_store() -> None:
    machine = identity.Machine("cpu", 1)
    part = {"_target_": "builtins.dict"}
    config = {"model": part, "training": {}, "store": {"enabled": True}}
    with pytest.raises(UserError, match=r"store\.enabled=false"):
        identity.Keys(config, "data", machine).trained()
    assert identity.Keys({**config, "store": {"enabled": False}}, "data", machine).trained()["model"] == part


def test_files_that_options_name_count_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    machine = identity.Machine("cpu", 1)

    def key(weights: object) -> dict[str, object]:
        model = {"_target_": "models.mlp.MLP", "nested": [{"weights": weights}]}
        return identity.Keys({"model": model, "training": {}}, "data", machine).trained()

    file, folder = tmp_path / "weights.pt", tmp_path / "folder"
    folder.mkdir()
    (folder / "part.bin").write_bytes(b"1")
    for name in ("weights.pt", str(file), "./weights.pt"):
        file.write_bytes(b"one")
        before = key(name)
        assert key(name) == before
        file.write_bytes(b"two")
        assert key(name) != before
    before = key(str(folder))
    (folder / "part.bin").write_bytes(b"2")
    assert key(str(folder)) != before
    for plain in ("folder", "tanh", "", "a\0b", "x" * 5000, 3, None, True):  # words are words, whatever stands beside
        assert "files" not in key(plain)
    assert "files" not in key("absent.pt")


def test_a_file_too_large_to_read_counts_by_size_time_and_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named_files, "WHOLE", 10)
    monkeypatch.setattr(named_files, "END", 4)
    file = tmp_path / "large"
    found = []
    for content in (b"a" * 20, b"b" + b"a" * 19, b"a" * 19 + b"b", b"a" * 20):
        file.write_bytes(content)
        os.utime(file, (1, 1))
        named_files.digest.cache_clear()
        found.append(named_files.contents([str(file)])[str(file)])
    assert len(set(found)) == 3
    assert found[0] == found[3]
