"""Sweeps: finished cells are recognised, failures stop nothing, and two sweeps at once share the work."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiments.play.setup import store_of
from experiments.sweeps import sweep
from experiments.sweeps.cells import Cell, expand
from experiments.sweeps.launchers.launcher import InProcess
from tests.experiments.games import command, run
from tests.experiments.small_sweeps import TINY, cell_states, options, records

GRID = ("attack=random,one_shot_influence", "defense=none,influence", "seed=range(2)")


def cells_of(folder: Path, *overrides: str) -> list[Cell]:
    return expand([*TINY, f"store.dir={folder / 'store'}", *overrides])


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is really played: the attack and the seed of every game."""
    import experiments.play.play as game

    calls: list[tuple[str, int]] = []
    original = game.record_of

    def counting(setup: Any, seed: int) -> Any:
        calls.append((setup.attack.name, seed))
        return original(setup, seed)

    monkeypatch.setattr(game, "record_of", counting)
    return calls


def play(folder: Path, *overrides: str) -> dict[str, str]:
    cells = cells_of(folder, *overrides)
    store = store_of(cells[0].config)
    outcomes = sweep.play(sweep.plan(cells, store), cells, InProcess(), store, folder / "sweep")
    return {name: outcome.state for name, outcome in outcomes.items()}


def test_finished_cells_are_not_played_again(tmp_path: Path, played: list[tuple[str, int]]) -> None:
    first = play(tmp_path, *GRID)
    assert set(first.values()) == {"done"}
    assert len(first) == len(played) == 8
    assert play(tmp_path, *GRID) == first
    assert len(played) == 8
    more = play(
        tmp_path, "attack=random,one_shot_influence,none", "game=request", "defense=none,influence", "seed=range(3)"
    )
    assert len(more) == 18
    assert len(played) == 8 + 4 + 6  # one more seed of what was there, and a new attack with three


def test_overlapping_sweeps_share_cells_victims_and_requests(tmp_path: Path) -> None:
    play(tmp_path, *GRID)
    victims = list((tmp_path / "store" / "victim").rglob("*.safetensors"))
    crafted = list((tmp_path / "store" / "attack").rglob("*.json"))
    assert len(victims) == 2  # one per seed
    assert len(crafted) == 4  # attack x seed: the defense takes no part in it
    assert not list((tmp_path / "store").glob("step/??/*.safetensors"))


def test_other_code_or_data_is_another_cell(tmp_path: Path, played: list[tuple[str, int]]) -> None:
    play(tmp_path, "attack=random")
    play(tmp_path, "attack=random", "data.split_seed=1")
    play(tmp_path, "attack=random", "wandb.project=other", "threads=1")  # neither changes what is measured
    assert len(played) == 2


def test_a_failing_cell_stops_nothing(tmp_path: Path) -> None:
    states = play(
        tmp_path, "attack=random", "attack.budget=6,0", "game.targets.over=[0.3,0.65],[0.998,0.999]", "seed=0,1"
    )
    assert sorted(states.values()).count("done") == 2
    listed = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["cells"]
    errors = {cell["error"] for cell in listed if cell["state"] == "failed"}
    assert any("attack.budget" in error for error in errors)
    assert any("No test example has a confidence" in error for error in errors)


def test_cells_that_share_an_attack_are_spread() -> None:
    cells = [sweep.CellStatus(None, (), attack) for attack in "aabbc"]  # type: ignore[arg-type]
    assert [each.undefended for each in sweep.spread(cells)] == ["a", "b", "c", "a", "b"]


def test_every_failure_is_listed_and_the_code_is_1(tmp_path: Path) -> None:
    bad = ("game.targets.over=[0.3,0.65],[0.998,0.999]", "attack=random", "defense=none", "seed=0,1")
    done = run("-m", *options(tmp_path), *bad, cwd=tmp_path)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("Failed: ")]  # one reason, two cells
    assert line.count("seed=") == 2
    assert "Traceback" not in done.stderr
    assert "2 of 4 cells failed; the others are kept." in done.stderr
    assert "one line per" not in done.stdout
    assert "Mean and 95% interval" in done.stdout


def test_a_mistake_in_all_cells_is_one_sentence(tmp_path: Path) -> None:
    done = run("-m", *options(tmp_path), "attack=random", "attack.budget=0", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("attack.budget") == 1
    assert done.stdout == ""


def test_dry_run_lists_and_plays_nothing(tmp_path: Path) -> None:
    grid = ("attack=random", "defense=none", "seed=range(2)")
    before = run("-m", *options(tmp_path), *grid, "dry_run=true", cwd=tmp_path)
    assert before.returncode == 0, before.stderr
    assert "seed=0: to play\nseed=1: to play\n2 cells: 0 done, 2 to play, 0 cannot be played." in before.stdout
    assert not records(tmp_path / "store")
    assert run("-m", *options(tmp_path), "attack=random", "defense=none", "seed=1", cwd=tmp_path).returncode == 0
    after = run("-m", *options(tmp_path), *grid, "dry_run=true", cwd=tmp_path)
    assert "seed=0: to play\nseed=1: done\n2 cells: 1 done" in after.stdout


def test_a_dry_run_of_one_game_plays_nothing(tmp_path: Path) -> None:
    done = run(*options(tmp_path), "attack=random", "defense=none", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 cell: 0 done, 1 to play, 0 cannot be played." in done.stdout
    assert not records(tmp_path / "store")


def test_two_sweeps_at_once_play_every_cell_once(tmp_path: Path) -> None:
    """Both begin in the same second; each game is one file, written by one of them."""
    grid = (*TINY, f"store.dir={tmp_path / 'store'}", "attack=random,one_shot_influence", "seed=range(4)")
    sweeps = [
        subprocess.Popen(
            command("-m", *grid, f"hydra.sweep.dir={tmp_path / name}"), cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for name in ("one", "two")
    ]  # fmt: skip
    said = [each.communicate(timeout=180)[1] for each in sweeps]
    assert [each.returncode for each in sweeps] == [0, 0], said
    assert [cell_states(tmp_path / name) for name in ("one", "two")] == [
        dict.fromkeys(cell_states(tmp_path / "one"), "done")
    ] * 2
    logs = [path.read_text() for path in tmp_path.glob("*/*/run.log")]
    assert sum(log.count("Crafted") for log in logs) == len(records(tmp_path / "store")) == 8
