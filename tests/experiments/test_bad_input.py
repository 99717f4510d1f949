"""Every mistake of a user ends with exit code 2 and one sentence, without a traceback, before any training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.experiments.games import run

CASES = {
    "unknown attack": (["attack=uncertainity"], "uncertainty"),
    "unknown group": (["attck=random"], "attck"),
    "misspelt key": (["attack.bugdet=3"], "bugdet"),
    "added key": (["+unknown.key=1"], "unknown"),
    "added component key": (["+attack.new=1"], "new"),
    "wrong type": (["attack.budget=many"], "attack.budget"),
    "fraction": (["attack.budget=1.5"], "attack.budget"),
    "wrong type at the top": (["seed=abc"], "seed"),
    "broken interpolation": (["attack.lr=${oc.env:SURELY_NOT_SET}"], "SURELY_NOT_SET"),
    "missing interpolation": (["attack.lr=${nowhere.at_all}"], "nowhere"),
    "not differentiable": (["unlearning=fine_tune", "attack.access=white_box"], "black_box"),
    "budget above the pool": (["attack.pool=5"], "pool"),
    "budget above the owned": (["attack.owned=0.01"], "attack.owned"),
    "negative budget": (["attack.budget=-1"], "attack.budget"),
    "no targets": (["targets.count=0"], "targets.count"),
    "empty band": (["targets.over=[0.9,0.1]"], "targets.over"),
    "band out of range": (["targets.under=[0.5,1.5]"], "targets.under"),
    "no data folder": (["data=mnist", "data.root=not/here"], "data.root"),
    "no GPU": (["device=cuda:7"], "device"),
    "bad threads": (["threads=0"], "threads"),
    "too few fresh seeds": (["fresh_seeds=1"], "fresh_seeds"),
    "dropout functional": (["attack/functional=mc_dropout"], "model.dropout"),
    "probabilities only": (["attack/functional=mc_dropout", "attack.access=black_box"], "white_box"),
    "cap without gradients": (["attack.norm_cap=0.7", "attack.access=black_box"], "norm_cap"),
    "bad tracking mode": (["wandb.mode=sometimes"], "wandb.mode"),
    "images wanted": (["data=arrays", "data.path=table.npz", "model=small_cnn"], "images"),
    "missing mandatory": (["data=arrays"], "data.path"),
    "stream too large": (["stream.benign_per_malicious=100"], "stream"),
    "malformed override": (["attack=["], "attack"),
}


@pytest.mark.parametrize("name", CASES)
def test_mistake_is_one_sentence(name: str, tmp_path: Path) -> None:
    overrides, word = CASES[name]
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "table.npz", x=rng.normal(size=(400, 5)).astype("float32"), y=rng.integers(0, 3, 400))
    done = run(*overrides, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert word in lines[0]
    assert "Traceback" not in done.stderr + done.stdout
    assert "Victim" not in done.stdout


def test_output_folder_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(f"hydra.run.dir={tmp_path}/file/out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_corrupt_data_file(tmp_path: Path, data_root: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for source in (data_root / "mnist").iterdir():
        (folder / source.name).write_bytes(source.read_bytes()[: 1000 if "train-images" in source.name else None])
    done = run("data=mnist", f"data.root={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert "train-images" in done.stderr
    assert "Traceback" not in done.stderr


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(f"store.dir={tmp_path}/file/store", cwd=tmp_path)
    assert done.returncode == 2
    assert "store.dir" in done.stderr
