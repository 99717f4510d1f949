import importlib.util
import sys
from pathlib import Path

import pytest

import data.examples
import data.randomness
import games.game
from data.errors import UserError
from storage import artifact, records, store
from storage.versions.code_version import ROOT, _reachable, _source, code_version


@pytest.fixture
def user_module(tmp_path):
    """Write the source of a user's module and import it; calling again replaces it."""
    path = tmp_path / "my_attack.py"

    def write(source: str):
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("my_attack", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["my_attack"] = module
        spec.loader.exec_module(module)
        return module

    yield write
    sys.modules.pop("my_attack", None)


def names(module) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for _, path in _reachable(_source(module)) if ROOT in path.parents}


def test_it_is_the_same_every_time_and_for_a_class_its_module_and_an_instance():
    version = code_version(store)
    assert version == code_version(store) == code_version(store.Store) == code_version(store.Store(Path()))
    assert len(version) == 64
    assert version != code_version(artifact)
    assert code_version(artifact, records) == code_version(records, artifact)


def test_imports_are_followed_through_our_packages_and_only_there():
    assert names(store) >= {
        "storage/__init__.py",
        "storage/store.py",
        "storage/artifact.py",
        "storage/records.py",
        "data/machine.py",
        "data/errors.py",
    }
    assert "games/victims.py" in names(games.game)  # imported inside a function
    assert names(data.randomness) == {"data/randomness.py"}
    assert not any("site-packages" in name for name in names(store))


def test_comments_docstrings_and_layout_do_not_count_but_code_does(user_module):
    plain = code_version(user_module("class A:\n    def f(self):\n        return 1\n"))
    dressed = '"""D."""\n# why\n\nclass A:\n    """D."""\n    def f(self):\n        """D."""\n        return (1)  # 1\n'
    assert code_version(user_module(dressed)) == plain
    assert code_version(user_module("class A:\n    def f(self):\n        return 2\n")) != plain
    assert code_version(user_module('class A:\n    def f(self):\n        x = "text"\n        return 1\n')) != plain


def test_a_users_module_counts_with_what_it_uses_of_ours(user_module):
    module = user_module("import json\nfrom storage import records\n\nclass Mine:\n    x = 1\n")
    assert names(module) >= {"storage/records.py"}
    assert "storage/store.py" not in names(module)
    assert code_version(module.Mine) == code_version(module)
    assert code_version(module.Mine) != code_version(data.examples)


def test_a_function_of_a_module_of_ours_counts_as_its_module():
    assert code_version(data.randomness.generator) == code_version(data.randomness)


def test_code_without_a_source_file_is_refused():
    typed_in = type("Mine", (), {"__module__": "__nowhere__"})
    with pytest.raises(UserError, match=r"write it in a file of its own, or set store\.enabled=false"):
        code_version(typed_in)
    with pytest.raises(UserError, match="source"):
        code_version(sys)
