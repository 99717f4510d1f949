"""The README's commands and its Python example do what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The same commands on a smaller game, so that the tests stay short; everything else is as printed.
SMALL = (
    "game.targets.count=2", "training.epochs=6", "attack.budget=6", "game.stream.calibration_batches=2",
    "game.stream.benign_batches=1", "game.targets.over=[0.3,0.65]", "game.targets.under=[0.7,0.97]",
)  # fmt: skip


SHORT = ("attack.queries=41", "attack.prefixes=2", "attack.rounds=1", "attack.width=1")  # of every search, the least
LITTLE = ("data.train=300", "data.test=1197", "training.epochs=10")  # of the digits


def commands(start: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(start)]


@pytest.mark.parametrize("line", commands("python experiments/run.py"))
def test_game(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)[2:]
    root = next((word.removeprefix("data.root=") for word in words if word.startswith("data.root=")), None)
    if root is not None:
        folder = Path(os.environ.get("UNLEARNING_DATA", ROOT / root)).resolve()
        if not folder.is_dir():
            pytest.skip(f"no data sets in {folder}")
        words = [f"data.root={folder}" if word.startswith("data.root=") else word for word in words]
    if "attack=forging" in words:
        play_verification(words, tmp_path)
        return
    small = [*SMALL, f"store.dir={tmp_path}/store"]
    if words != ["attack=uncertainty", "defense=influence"]:  # the first command is judged in full, and drawn
        small[:0] = ["judge=quick", "figures=false"]
        if not any(word.startswith("data=") for word in words) and "certified_removal" not in line:
            small = [*(word for word in small if not word.startswith("training.")), *LITTLE]
    if "attack.access=black_box" in words:
        small.append("attack.queries=50")
    if "certified_removal" in line:  # every procedure; that one trains by Newton's method, which has no epochs
        small = [word for word in small if not word.startswith("training.")] + [*SHORT]
    if any(word.startswith("data=mnist") for word in words):
        small[-1:] = ["training.epochs=2", f"store.dir={tmp_path}/store"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments/run.py"), *words, *small],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("Mean and 95% interval" if "-m" in words else "Effect against random requests") in done.stdout
    assert list(tmp_path.rglob("result.json"))
    if "certified_removal" in line:
        procedures = [path.stem for path in (ROOT / "conf" / "unlearning").glob("*.yaml")]
        assert all(len(re.findall(rf"={name}\s+(?:over|under)\b", done.stdout)) == 2 for name in procedures)


def play_verification(words: list[str], folder: Path) -> None:
    less = ("data.train=300", "data.test=1197", "training.epochs=5", f"store.dir={folder}/store")
    done = warm.run("run.py", *words, *less, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "the provider is accused" in done.stdout
    assert list(folder.rglob("result.json"))


@pytest.mark.parametrize("line", commands("python experiments/store.py"))
def test_store_command(line: str, tmp_path: Path) -> None:
    words = [sys.executable, *shlex.split(line)[1:]]
    words[1] = str(ROOT / words[1])
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", commands("make"))
def test_make_target_exists(line: str) -> None:
    done = subprocess.run(["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_example() -> None:
    [example] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (float(part) for part in re.findall(r"(?:before|after) ([\d.]+)", done.stdout))
    assert 0.45 < before < 0.65
    assert after > before + 0.1
    assert re.search(r"accepted \d+ of 20", done.stdout)


def test_every_row_and_column_of_the_table_is_explained() -> None:
    from games.request.table import ALONE, ROWS, STREAM

    for _, _, heading in (*ALONE, *STREAM):
        assert f"| {heading} |" in README, heading
    for quantity in ROWS:
        first, _, rest = quantity.label.partition(": ")
        assert f"| {first}" in README, quantity.label
        assert rest in README, quantity.label


def test_choices_are_those_of_the_configuration() -> None:
    """Every option of every group stands in the table, and none that is not there."""
    for group in ("game", "data", "model", "training", "unlearning", "attack", "attack/functional", "defense"):
        options = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
        [row] = [line for line in README.splitlines() if line.startswith(f"| `{group}=`")]
        named = set(re.findall(r"`([a-z0-9_]+)`", row))
        assert options <= named
        assert named - options <= {"npz", "_target_"}
