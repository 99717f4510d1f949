"""The tutorial: its files, written outside the repository, and its commands, played in one process on small games."""

from __future__ import annotations

import logging
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments import run
from experiments.cli.command import run as run_script

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```(?:python|yaml)\n# (mine/\S+)\n(.*?)```", PAGE, flags=re.DOTALL))
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines() if line
]
SMALL = (
    "game.targets.count=2", "game.targets.over=[0.3,0.75]", "game.targets.under=[0.55,0.97]", "training.epochs=10",
    "judge=quick", "game.stream.calibration_batches=2", "game.stream.benign_batches=1", "figures=false",
)  # fmt: skip
DIGITS = ("data.train=300", "data.test=1197")
MODULES = {Path(name).stem for name in FILES if name.endswith(".py")}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run in, as the repository is, with the files of the page in `mine` beside it."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.delenv("UNLEARNING_STORE", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield tmp_path
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in MODULES & sys.modules.keys():
        del sys.modules[name]


def play(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`python experiments/run.py` with these arguments, on a small game."""
    small = [*SMALL, *(() if "data=arrays" in words else DIGITS)]
    words = [re.sub(r"^seed=range\(3\)$", "seed=range(1)", word) for word in words]
    named = {word.partition("=")[0] for word in words}
    small += [] if named & {"attack.budget"} else ["attack.budget=6"]
    monkeypatch.setattr(sys, "argv", ["run.py", *words, *small])
    ended = pytest.raises(SystemExit) if "-m" in words else nullcontext()
    try:
        with ended as raised:
            run_script(run.main, "run", ROOT / "conf", sweeps=True)
    finally:
        GlobalHydra.instance().clear()
    assert raised is None or raised.value.code == 0, words


def test_every_file_and_command_of_the_page(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the page; one store serves them all."""
    printed = {}
    for line in COMMANDS:
        words = shlex.split(line)
        assert words[0] == "python"
        if words[1] == "experiments/run.py":
            play(words[2:], monkeypatch)
        else:
            monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
        out, err = capsys.readouterr()
        assert "Error" not in err, err
        printed[line] = out
    for name in ("frail", "drawn", "surprised", "rest", "cosine"):
        assert any(re.search(rf"\b{name}\b", out) for out in printed.values()), name
    assert any("200 black-box queries" in out for out in printed.values())  # 50 for each of four targets
    rises = printed["python ../mine/wavered.py played/result.json"]
    assert len(re.findall(r"(?:after|random|nearest): entropy rose by 0.3 nats for \d+% \[", rises)) == 3


def test_the_page_has_what_it_promises() -> None:
    """Code and options of each part, every member of each role, and no module whose name the toolkit has."""
    from experiments.cli.roles import _role_at
    from games.request.game import RequestGame

    groups = ("attack", "defense", "unlearning", "model")
    for group in groups:
        [*options] = [name for name in FILES if name.startswith(f"mine/{group}/")]
        assert options
        assert all(f"mine/{Path(name).stem}.py" in FILES for name in options)
        assert not any((ROOT / "conf" / group / Path(name).name).exists() for name in options)
    for where in ("attack", "defense", "unlearning"):
        role = _role_at(where, RequestGame())
        assert role
        assert all(name in PAGE for name in role.needs)
    for name in ("needs_gradient", "criterion", "queries", "feedback", "threshold(context)", "remedy", "objective"):
        assert f"`{name}" in PAGE
    assert not MODULES & {path.stem for path in ROOT.iterdir()}
