"""What goes wrong around a sweep is said in one sentence, and loses nothing that was finished."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.artifact import envelope
from storage.records import write_json_atomic
from tests.experiments.games import command, run
from tests.experiments.small_sweeps import options, records

GRID = ("attack=random", "defense=none", "seed=range(8)")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 280 KiB: a few games, and it is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=280k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def one_sentence(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    return errors[0]


def test_a_disk_that_fills_up_and_a_read_only_one(small_disk: Path, tmp_path: Path) -> None:
    words = (*options(tmp_path), f"store.dir={small_disk / 'store'}", *GRID)
    done = run("-m", *words, cwd=tmp_path)
    assert "No space left on device); make room and start the same command again" in one_sentence(done)
    kept = records(small_disk / "store")
    assert 0 < len(kept) < 8
    assert f"[{len(kept)}/8] done" in done.stderr
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system" in one_sentence(run("-m", *words, cwd=tmp_path))
    listed = run("--store", str(small_disk / "store"), script="results.py", cwd=tmp_path)
    assert listed.returncode == 0
    assert f"{2 * len(kept)} rows" in listed.stdout
    assert "cannot be kept" in listed.stderr
    subprocess.run(["mount", "-o", "remount,rw,size=64m", str(small_disk)], check=True)
    assert run("-m", *words, cwd=tmp_path).returncode == 0
    after = records(small_disk / "store")
    assert len(after) == 8
    assert {name: after[name] for name in kept} == kept


def test_a_damaged_record_is_played_again(tmp_path: Path) -> None:
    words = (*options(tmp_path), "attack=random", "defense=none", "seed=0,1")
    assert run("-m", *words, cwd=tmp_path).returncode == 0
    before = records(tmp_path / "store")
    path = next((tmp_path / "store").glob("game/??/*.json"))
    path.write_text(path.read_text().replace('"seed":', '"sead":', 1))
    again = run("-m", *words, cwd=tmp_path)
    assert again.returncode == 0
    assert "is damaged" in (tmp_path / "sweep").joinpath(*_played(tmp_path), "run.log").read_text() + again.stderr
    assert records(tmp_path / "store") == before


def _played(tmp_path: Path) -> tuple[str, ...]:
    newest = max((tmp_path / "sweep").glob("*/status.json"), key=lambda path: path.stat().st_mtime)
    return (newest.parent.name,)


def test_a_component_that_no_longer_exists(tmp_path: Path) -> None:
    """In a sweep the cell fails and the others are played; what it left in the store can still be read."""
    folder = tmp_path / "options" / "attack"
    folder.mkdir(parents=True)
    game = "defaults:\n  - _self_\n  - override /game@_global_.game: request\n"
    (folder / "gone.yaml").write_text(
        f"{game}_target_: attacks.requester.gone.Gone\nbudget: 6\nowned: 1.0\npool: null\n"
    )
    words = (*options(tmp_path), "attack=random,gone", "defense=none")
    done = run("-m", "--config-dir", str(tmp_path / "options"), *words, cwd=tmp_path)
    assert done.returncode == 1
    failures = [line for line in done.stderr.splitlines() if line.startswith("Failed: ")]
    assert len(failures) == 1
    assert "attacks.requester.gone" in failures[0]
    assert len(records(tmp_path / "store")) == 1
    path = next((tmp_path / "store").glob("game/??/*.json"))
    record = json.loads(path.read_text())
    payload = record["payload"]
    payload["config"]["attack"]["_target_"] = "attacks.requester.gone.Gone"
    payload["config"].get("choices", {})["attack"] = "gone"
    description = {part: record[part] for part in ("kind", "key", "created", "toolkit")}
    write_json_atomic(path, envelope(description, payload), indent=None)  # as the toolkit of then would have written it
    listed = run("--store", str(tmp_path / "store"), "attack=gone", script="results.py", cwd=tmp_path)
    assert "2 rows." in listed.stdout


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("hydra/launcher=clouds", "There is no hydra/launcher=clouds"),
        ("hydra.launcher._target_=hydra_plugins.x.Y", "is a plug-in of Hydra's"),
        ("store.enabled=false", "share one store"),
        ("store.dir=a,b", "share one store"),
        ("attack=randm", "did you mean attack=random"),
        ("hydra.sweep.dir=/proc/none", "set hydra.sweep.dir=FOLDER"),
        ("wandb.mode=sometimes", "wandb.mode=sometimes is not known"),
        ("seed=range(0)", "seed=range(0) gives no value"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(word: str, text: str, tmp_path: Path) -> None:
    words = [each for each in options(tmp_path) if each.partition("=")[0] != word.partition("=")[0]]
    done = run("-m", *words, "attack=random", word, cwd=tmp_path)
    assert text in one_sentence(done)
    assert not list(tmp_path.rglob("game/*/*.json"))


def test_online_tracking_without_a_network_fails_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        command("-m", *options(tmp_path), "attack=random", "wandb.mode=online"), cwd=tmp_path, capture_output=True,
        text=True, timeout=60, env=environment, check=False,
    )  # fmt: skip
    assert "cannot reach 127.0.0.1" in one_sentence(done)
