"""What the machinery of sweeps costs: thousands of games listed, finished cells recognised, two workers against one."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.play.setup import store_of
from experiments.sweeps.cells import expand
from experiments.sweeps.sweep import plan
from tests.benchmarks.conftest import Report
from tests.benchmarks.stores import fill
from tests.experiments.games import command

MANY, FEW = 10_000, 1_000
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}

# A peak begins with that of the process that starts the command: here a small one, not the benchmarks with their data.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


@pytest.fixture(scope="module")
def envelope(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of the main job at its defaults, as it lies in a store."""
    folder = tmp_path_factory.mktemp("one")
    run(command("attack=uncertainty", "defense=influence", "figures=false"), folder)
    [path] = folder.glob("outputs/store/game/??/*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def stores(envelope: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Stores of 1,000 and of 10,000 games."""
    folder = tmp_path_factory.mktemp("stores")
    for count in (FEW, MANY):
        fill(folder / str(count), envelope, count)
    return {count: folder / str(count) for count in (FEW, MANY)}


def run(words: Sequence[str], folder: Path) -> tuple[float, float]:
    """Run a command to its end; its seconds, and its largest memory in GiB."""
    began = time.perf_counter()
    measured = [sys.executable, "-c", MEASURE, *words]
    done = subprocess.run(measured, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, int(done.stdout) / 2**20


BUSY = "import time; began = time.process_time()\nwhile time.process_time() - began < 1: sum(range(1000))"


def side_by_side(count: int) -> float:
    """Seconds of `count` processes at once that compute for one second each."""
    began = time.perf_counter()
    for each in [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]:
        each.wait()
    return time.perf_counter() - began


def slowed() -> float:
    """How many times longer two processes take here and now than on two idle cores, for what they compute."""
    return max(1.0, side_by_side(2))


def test_thousands_of_games(benchmark: Any, stores: dict[int, Path], tmp_path: Path, report: Report) -> None:
    """Listing and report: at most 10 s and 1 GiB for 10,000 games, also where the index has to be made first.

    Every metric of every game, most of which no table shows, is computed where all are asked for: measured, too.
    The seconds are those of two idle cores: what other load adds is measured before and after each command.
    """
    found: dict[str, tuple[float, float]] = {}

    def measured(words: Sequence[str]) -> tuple[float, float]:
        before = slowed()
        seconds, gib = run(words, tmp_path)
        return seconds / statistics.mean([before, slowed()]), gib

    for count, store in stores.items():
        for what in ("listing, no index yet", "listing"):
            words = command("--store", str(store), "--limit", "3", script="results.py")
            found[f"{what}, {count:,} games"] = measured(words)
        words = command("--store", str(store), "--output", str(tmp_path / "page.html"), script="report.py")
        found[f"report, {count:,} games"] = measured(words)
    words = command("--store", str(stores[MANY]), "--csv", str(tmp_path / "games.csv"), script="results.py")
    every = {f"every metric of {MANY:,} games, as CSV": measured(words)}
    report("Thousands of games", {name: f"{s:.2f} s, {gib:.2f} GiB" for name, (s, gib) in (found | every).items()})
    benchmark.pedantic(lambda: None)
    for name, (seconds, gib) in found.items():
        assert seconds <= 10, name
        assert gib <= 1, name
    for what in ("listing, no index yet", "listing", "report"):
        assert found[f"{what}, {MANY:,} games"][0] <= 13 * found[f"{what}, {FEW:,} games"][0]  # linear, and some noise


def test_finished_cells(benchmark: Any, stores: dict[int, Path], report: Report) -> None:
    """Expanding a sweep and recognising its finished cells, each, once all is imported: at most 20 ms of computing."""
    words = [f"store.dir={stores[FEW]}", "figures=false"]
    store = store_of(expand(words)[0].config)
    plan(expand(words), store)  # imports, and the data set
    began = time.process_time()  # other load takes no part in it
    cells = expand([*words, "seed=range(500)"])
    composed = time.process_time()
    finished = plan(cells, store).finished
    seconds = time.process_time() - began
    assert len(finished) == len(cells) == 500
    each = {"expanded": (composed - began) / 500, "expanded, recognised and verified": seconds / 500}
    report("A finished cell of a sweep", {name: f"{1e3 * value:.1f} ms" for name, value in each.items()})
    benchmark.pedantic(lambda: None)
    assert seconds / 500 <= 0.020


def test_two_workers_against_one_process(benchmark: Any, tmp_path: Path, report: Report) -> None:
    """16 cells of digits with different seeds, one thread each: two workers use what two processes get here.

    Two processes that only compute are as many times as fast as one as this machine lets them, twice where its cores
    are idle. Workers also start (two seconds of imports, of some thirty that each computes), and wait for the longest
    cell at the end (one of eight, half of it on average): four fifths of it.
    """
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot show it")
    grid = ("attack=uncertainty", "game.targets.count=4", "seed=range(16)")  # some seconds each
    seen: dict[str, list[float]] = {"basic": [], "local": []}
    possible: list[float] = []
    for round_ in range(3):
        for launcher, times in seen.items():
            words = command("-m", *grid, f"hydra/launcher={launcher}", f"store.dir={tmp_path}/{launcher}{round_}")
            workers = ["hydra.launcher.workers=2"] if launcher == "local" else []
            times.append(run([*words, *workers], tmp_path)[0])
            possible.append(2 * side_by_side(1) / side_by_side(2))
    ratio, most = statistics.median(a / b for a, b in zip(*seen.values(), strict=True)), statistics.median(possible)
    rows = {name: ", ".join(f"{value:.1f}" for value in times) + " s" for name, times in seen.items()}
    report("16 cells of digits", {**rows, "times as fast": f"{ratio:.2f}", "at most, here and now": f"{most:.2f}"})
    benchmark.pedantic(lambda: None)
    assert ratio >= 0.8 * most
