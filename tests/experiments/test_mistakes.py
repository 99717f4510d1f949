"""The mistakes of `mistakes.txt`: each is one sentence and exit code 2, before anything is trained."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments import run
from experiments.cli.command import run as run_script
from experiments.paper_table import command as tables
from experiments.paper_table.command import gathered
from experiments.play import play as game
from tests.experiments.games import ROOT, command

LINES = (Path(__file__).parent / "mistakes.txt").read_text().splitlines()
MISTAKES = [line.split(" => ") for line in LINES if line and not line.startswith("#")]
REAL = range(0, len(MISTAKES), len(MISTAKES) // 12)  # every so many also as a process of its own
SCRIPTS = {"run": (run.main, True), "tables": (tables.table, False)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run in, with what the mistakes name; nobody trains, and logging is as it was afterwards."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("neither options nor data")
    np.savez(tmp_path / "table.npz", x=np.random.default_rng(0).normal(size=(400, 5)), y=np.arange(400) % 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARNING_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    for name in ("WANDB_API_KEY", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(game, "record_of", lambda *_: pytest.fail("the game began"))
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield tmp_path
    root.handlers[:], logging.raiseExceptions = handlers, raises
    root.setLevel(level)
    GlobalHydra.instance().clear()


def typed(text: str, place: Path) -> tuple[str, list[str]]:
    """The script and the arguments of a mistake."""
    words = shlex.split(text)
    script = "tables" if words[:1] == ["tables.py"] else "run"
    there = {"FOLDER": "folder", "FILE": "file", "TABLE": "table.npz"}
    named = [re.sub("FOLDER|FILE|TABLE", lambda found: str(place / there[found[0]]), word) for word in words]
    return script, named[1:] if script == "tables" else named


def one_sentence(code: object, error: str, wanted: str) -> None:
    lines = [line for line in error.splitlines() if not line.startswith("sweep: ")]  # how many cells there are
    assert code == 2, error
    assert lines[-1].startswith("Error: "), error
    assert len(lines) == 1, error
    assert lines[0].endswith((".", "?", "!"))
    assert wanted in lines[0]


@pytest.mark.parametrize(("text", "wanted"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_is_one_sentence_before_training(
    text: str, wanted: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, arguments = typed(text, place)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *(gathered(arguments) if script == "tables" else arguments)])
    entry: tuple[Callable[..., float | None], bool] = SCRIPTS[script]  # type: ignore[assignment]
    with pytest.raises(SystemExit) as ended:
        run_script(entry[0], script, ROOT / "conf", sweeps=entry[1])
    one_sentence(ended.value.code, capsys.readouterr().err, wanted)
    assert not list(place.rglob("store/*/*/*"))


@pytest.mark.parametrize(("text", "wanted"), [MISTAKES[i] for i in REAL], ids=[MISTAKES[i][0] for i in REAL])
def test_the_real_command_line_says_the_same(text: str, wanted: str, place: Path) -> None:
    script, arguments = typed(text, place)
    done = subprocess.run(
        command(*arguments, script=f"{script}.py"), cwd=place, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    one_sentence(done.returncode, done.stderr, wanted)
    assert not list(place.rglob("store/*/*/*"))


def test_there_are_mistakes_of_every_kind() -> None:
    assert len(MISTAKES) >= 150
    assert len({text for text, _ in MISTAKES}) == len(MISTAKES)
