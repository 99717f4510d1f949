"""A sweep that is killed at any moment and started again ends like one that was not, with every launcher.

`UNLEARNING_KILLS=20` kills 20 times (by default once per launcher, on fewer cells), at moments that
`UNLEARNING_KILL_SEED` decides.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests.experiments.games import command, run
from tests.experiments.small_sweeps import options, records

KILLS = int(os.environ.get("UNLEARNING_KILLS", "0"))
SEEDS = 6 if KILLS else 2
GRID = ("attack=random,one_shot_influence", "defense=none,influence", f"seed=range({SEEDS})")
SURVIVE = 10.0  # seconds that a process may outlive its killed parent
MARK = "UNLEARNING_TEST_MARK"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The records of the sweep that nobody disturbs."""
    folder = tmp_path_factory.mktemp("calm")
    done = run("-m", *options(folder), *GRID, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stderr
    found = records(folder / "store")
    assert len(found) == 4 * SEEDS
    return dict(found)


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_killed_sweep_goes_on_where_it_was(launcher: str, calm: dict[str, object], tmp_path: Path) -> None:
    rng = random.Random(os.environ.get("UNLEARNING_KILL_SEED", "0") + launcher)
    words = ["-m", *options(tmp_path), *GRID, f"hydra/launcher={launcher}"]
    words += ["hydra.launcher.workers=2"] if launcher == "local" else []
    finished: dict[str, int] = {}
    for _ in range(KILLS or 1):
        kill(words, tmp_path, rng.uniform(1.0, 9.0))
        finished = unchanged(finished, tmp_path / "store")
        forget_some(finished, tmp_path / "store", rng)
    ends_as(words, calm, finished, tmp_path)


@pytest.mark.slurm
def test_a_killed_sweep_goes_on_on_a_cluster(slurm: dict[str, str], calm: dict[str, object], tmp_path: Path) -> None:
    """The tasks stay in the queue when the sweep is killed; what they finish meanwhile is not played again."""
    rng = random.Random(os.environ.get("UNLEARNING_KILL_SEED", "0"))
    words = ["-m", *options(tmp_path), *GRID, "hydra/launcher=slurm", "hydra.launcher.memory_gb=null"]
    finished: dict[str, int] = {}
    for _ in range(min(KILLS or 1, 3)):
        kill(words, tmp_path, rng.uniform(6.0, 20.0), alone=True)
        finished = unchanged(finished, tmp_path / "store")
    ends_as(words, calm, finished, tmp_path)
    states = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["cells"]
    assert {cell["state"] for cell in states} == {"done"}


def kill(words: list[str], folder: Path, after: float, alone: bool = False) -> None:
    """SIGKILL to the sweep after some seconds; unless its jobs are not its children, none may outlive it for long."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        command(*words), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", MARK: mark},
    )  # fmt: skip
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + SURVIVE
    while not alone and alive(mark):
        assert time.monotonic() < deadline, f"still there after {SURVIVE:.0f} s: {alive(mark)}"
        time.sleep(0.1)


def alive(mark: str) -> list[str]:
    """The commands of all processes that carry the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def unchanged(before: dict[str, int], store: Path) -> dict[str, int]:
    """The times at which the records were written; those that were there `before` have not been written again."""
    now = {path.stem: path.stat().st_mtime_ns for path in store.glob("game/??/*.json")}
    assert {name: now[name] for name in before} == before
    return now


def forget_some(finished: dict[str, int], store: Path, rng: random.Random) -> None:
    """Remove the records of a sweep that is nearly through, so that the next kill has something to hit."""
    if len(finished) > 3 * SEEDS:
        for name in rng.sample(sorted(finished), 2 * SEEDS):
            (store / "game" / name[:2] / f"{name}.json").unlink()
            del finished[name]


def ends_as(words: list[str], calm: dict[str, object], finished: dict[str, int], folder: Path) -> None:
    done = run(*words, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr
    unchanged(finished, folder / "store")
    assert records(folder / "store") == calm
