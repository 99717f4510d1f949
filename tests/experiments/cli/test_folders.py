"""Every run gets a folder of its own, and the result of another game is kept."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments.cli.arguments import parse
from experiments.cli.folders import keep_other_game, keep_other_sweep, new_folder
from experiments.play.play import play_config
from experiments.sweeps.command import hydra_node
from tests.experiments.games import ROOT, config
from tests.experiments.small_sweeps import TINY


def test_folders_asked_for_at_once_are_all_different(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: new_folder(str(tmp_path / "day" / "12-00-00")), range(64)))
    assert len(set(made)) == 64
    assert all(Path(folder).is_dir() for folder in made)
    assert {Path(folder).name for folder in made} == {"12-00-00", *(f"12-00-00-{i}" for i in range(2, 65))}


def test_a_folder_that_cannot_be_made_is_left_to_hydra_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert new_folder(str(tmp_path / "file" / "out")) == str(tmp_path / "file" / "out")


@pytest.mark.parametrize("primary", ["run", "tables"])
def test_the_folders_of_the_configuration_are_made_once_each(
    primary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [hydra_node(parse([]), primary, ROOT / "conf") for _ in range(3)]
    made = [str(node.run.dir) for node in nodes]
    assert [str(node.run.dir) for node in nodes] == made  # asked again, it is the same
    assert len(set(made)) == 3
    assert all((tmp_path / folder).is_dir() for folder in made)


def test_a_second_game_in_a_folder_keeps_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = play_config(config(tmp_path, *TINY, "figures=false", "seed=1"), out)
    play_config(config(tmp_path, *TINY, "figures=false", "seed=1", "wandb.project=other"), out)  # the same game again
    assert sorted(path.name for path in out.iterdir()) == ["result.json"]
    (out / "figures").mkdir()
    play_config(config(tmp_path, *TINY, "figures=false", "seed=2"), out)
    play_config(config(tmp_path, *TINY, "figures=false", "seed=3"), out)
    seeds = {path.name: json.loads(path.read_text())["seeds"] for path in out.glob("*.json")}
    assert seeds == {"result.json": [3], "result.1.json": [1], "result.2.json": [2]}
    assert (out / "figures.1").is_dir()
    assert json.loads((out / "result.1.json").read_text())["score"] == pytest.approx(first["score"])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": 3}', "no json"])
def test_a_result_that_cannot_be_read_is_replaced(content: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    keep_other_game(tmp_path, {"seed": 1})
    assert not (tmp_path / "result.1.json").exists()


def test_the_list_of_another_sweep_is_kept(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": [{"name": "seed=1"}, {"name": "seed=2"}]}))
    keep_other_sweep(tmp_path, ["seed=1", "seed=2", "seed=3"])  # the same sweep with one more cell
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
    keep_other_sweep(tmp_path, ["seed=2"])
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.1.json"]
