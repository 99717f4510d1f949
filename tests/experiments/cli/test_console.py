"""`unlearning-games` does what the scripts do."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from experiments.cli import console
from tests.experiments.games import ROOT, command


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as an installer's wrapper starts it."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["unlearning-games"]
    module, _, function = named.partition(":")
    code = f"import sys; sys.path[0] = {str(ROOT)!r}; from {module} import {function} as run; run()"
    return subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", console.SCRIPTS)
def test_every_command_is_a_script(name: str, tmp_path: Path) -> None:
    script = subprocess.run(
        command("--help", script=f"{console.SCRIPTS[name]}.py"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    done = run(name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == script.stdout


def test_a_mistake_is_a_sentence(tmp_path: Path) -> None:
    for words, said in ((["tables"], "There is no command 'tables'; there are run, table"), (["run", "a"], "'a'")):
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("Error: ")
        assert said in done.stderr
    assert "run|table|report" in run(cwd=tmp_path).stdout
