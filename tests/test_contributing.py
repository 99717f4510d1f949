"""CONTRIBUTING.md: its files, written outside the repository, pass their own tests, and its commands are played."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```(?:python|yaml)\n# (mine/\S+)\n(.*?)```", PAGE, flags=re.DOTALL))
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python ")
]
SMALL = ("data.train=300", "data.test=1197", "training.epochs=10", "judge=quick", "figures=false", "attack.budget=6")
STREAM = (
    "game.targets.count=2", "game.targets.over=[0.3,0.75]", "game.targets.under=[0.55,0.97]",
    "game.stream.calibration_batches=2", "game.stream.benign_batches=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run in, as the repository is, with the files of the page in `mine` beside it."""
    folder = tmp_path_factory.mktemp("contributing")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "repository").mkdir()
    return folder / "repository"


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "UNLEARNING_STORE": str(folder / "store")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_recipe_has_its_files() -> None:
    """Code, YAML and test of each, under names that the repository does not have."""
    for group, name in (("attack", "newest"), ("unlearning", "keep"), ("defense", "crowd"), ("game", "watched"),
                        ("attack", "jitter"), ("defense", "stirred")):  # fmt: skip
        assert {f"mine/{name}.py", f"mine/{group}/{name}.yaml", f"mine/test_{name}.py"} <= FILES.keys()
        assert not (ROOT / "conf" / group / f"{name}.yaml").exists()


def test_the_places_are_those_of_the_repository() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| a")]
    folders = {place.rpartition("/")[0] for row in rows for place in re.findall(r"`([a-z/]+/NAME\S*)`", row)}
    named = {folder for folder in folders if "NAME" not in folder}
    assert {"attacks/requester", "attacks/provider", "defenses/filters", "defenses/verification", "unlearning"} <= named
    assert all((ROOT / folder).is_dir() for folder in named)


def test_the_tests_of_the_page_pass(repository: Path) -> None:
    tests = sorted(Path(name).name for name in FILES if Path(name).name.startswith("test_"))
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", "."]
    out = run([sys.executable, "-m", "pytest", *options, *tests], repository.parent / "mine")
    assert f"{len(tests)} passed" in out


def test_the_commands_are_played(repository: Path) -> None:
    together, provider, metric = ([str(ROOT / word) if word.endswith(".py") else word for word in shlex.split(line)[1:]]
                        for line in COMMANDS)  # fmt: skip
    out = run([sys.executable, *together, *SMALL, *STREAM], repository)
    assert "newest attack against keep with defense crowd" in out
    assert "Filter: AUROC" in out
    games = [word for word in SMALL if not word.startswith(("attack", "judge"))]
    out = run([sys.executable, *provider, *games], repository)
    assert "provider jitter, retrain, against verification stirred" in out
    assert "Answers on the deleted records have moved by" in out
    out = run([sys.executable, *metric, *SMALL, *STREAM, "unlearning=first_order", "defense=none"], repository)
    assert "entropy, rise: entropy after the attack less before, in nats; higher is less certain." in out
