"""`store.py list` and `prune`: what lies in the store in words, and what may be removed from it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from experiments.listing.command import main
from experiments.play.play import play_config
from storage.artifact import envelope
from storage.records import write_json_atomic
from storage.store import Store
from tests.experiments.games import ROOT, config
from tests.experiments.small_sweeps import TINY


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One artifact of each kind that a test needs; their keys are not those of games."""
    made = Store(tmp_path / "store")
    made.tensors("victim", {"seed": 0}, lambda: {"w": torch.zeros(3)})
    made.record("game", {"seed": 0}, lambda: {"n": 1})
    made.record("game", {"seed": 1}, lambda: {"n": 2})
    return made


def kept(store: Store) -> list[Path]:
    return sorted(p for p in store.folder.rglob("*") if p.is_file() and p.suffix != ".lock")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["prune", "--kind", ""],
            "There is no kind of artifact ''; the kinds are attack, contribution, copies, game, margins, oracle, "
            "reference, released, step, victim.",
        ),
        (["prune", "--kind", "/etc"], "There is no kind of artifact '/etc'"),
        (["prune", "--kind", "**"], "There is no kind of artifact '**'"),
        (["prune", "--kind", "games"], "There is no kind of artifact 'games'"),
        (["prune", "--kind", "", "--dry-run"], "There is no kind of artifact ''"),
        (["list", "--kind", ""], "There is no kind of artifact ''"),
        (["list", "--kind", "../.."], "There is no kind of artifact '../..'"),
        (["prune", "--all", "--kind", "game"], "--all removes every artifact; leave it out"),
        (["prune", "--older-than", ""], "--older-than: '' is not a number of days from 0 on"),
        (["prune", "--older-than", "nan"], "--older-than: 'nan' is not a number of days"),
        (["prune", "--older-than", "-1"], "--older-than: '-1' is not a number of days"),
        (["prune", "--older-than"], "--older-than needs a value"),
        (["prune", "--damage", "--dryrun"], "There is no option '--dryrun'; did you mean --dry-run?"),
        (["burn"], "list"),
        ([], "list|prune"),
    ],
)
def test_what_is_not_known_removes_nothing(
    arguments: list[str], text: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept(store)
    where = ["--dir", str(store.folder)] if arguments[:1] in (["list"], ["prune"]) else []
    assert main([*arguments[:1], *where, *arguments[1:]]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith("Error: ")
    assert text in line
    assert kept(store) == before


def test_an_empty_folder_is_not_the_working_folder(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.folder)
    before = kept(store)
    assert main(["prune", "--all", "--dir", ""]) == 2
    assert "--dir: an empty name" in capsys.readouterr().err
    assert kept(store) == before


def test_without_a_condition_artifacts_stay(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept(store)
    assert main(["prune", "--dir", str(store.folder)]) == 0
    said = capsys.readouterr().out
    assert "Removed 0 artifacts" in said
    assert "all of them by --all" in said
    assert kept(store) == before


@pytest.mark.parametrize(
    ("condition", "names", "left"),
    [(["--all"], {"game: 2", "victim: 1"}, 0), (["--kind", "game"], {"game: 2"}, 2), (["--older-than", "9"], set(), 4)],
)
def test_what_is_removed_is_named(
    condition: list[str], names: set[str], left: int, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept(store)
    assert main(["prune", "--dir", str(store.folder), *condition, "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert kept(store) == before
    assert main(["prune", "--dir", str(store.folder), *condition]) == 0
    wet = capsys.readouterr().out
    assert len(kept(store)) == left
    for said in (dry, wet):
        assert {line.partition(" artifacts")[0] for line in said.splitlines() if ": " in line} == names
    removed = [path for path in before if not path.exists() and not path.name.endswith(".safetensors.json")]
    assert all(path.name[:12] in dry for path in removed)


def test_what_a_kill_left_is_found_also_in_the_stores_own_folder(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    old, fresh = store.folder / "check-17", store.folder / f"check-{os.getpid()}"
    part, mine = store.folder / "check-17.17-0a1b2c3d.tmp", store.folder / "check-list.txt"
    lock = store.folder / "game" / "ab" / f"{'ab' * 32}.json.lock"
    lock.parent.mkdir(exist_ok=True)
    for path in (old, fresh, part, mine, lock):
        path.write_bytes(b"12")
    for path in (old, part, mine):
        os.utime(path, (time.time() - 3600,) * 2)
    assert main(["prune", "--dir", str(store.folder), "--dry-run"]) == 0
    assert "Would remove 0 artifacts and 3 left-over files" in capsys.readouterr().out
    assert all(path.exists() for path in (old, fresh, part, mine, lock))
    assert main(["prune", "--dir", str(store.folder)]) == 0
    assert "Removed 0 artifacts and 3 left-over files" in capsys.readouterr().out
    assert not any(path.exists() for path in (old, part, lock))
    assert fresh.exists()  # of a process that is perhaps still there
    assert mine.exists()
    assert len(kept(store)) == 6


def test_artifacts_are_listed_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play_config(config(tmp_path, *TINY, "attack=random", "seed=3", "figures=false"), tmp_path / "out")
    store = tmp_path / "store"
    hostile = store / "game" / "ab" / f"{'ab' * 32}.json"
    hostile.parent.mkdir(exist_ok=True)
    key = {"attack": {"_target_": "a.\u001b[2Jb.C"}, "seed": [1], "victim": 7}
    write_json_atomic(hostile, envelope({"key": key}, {}), indent=None)
    for name, odd in (("cd", {"choices": 7}), ("ef", {"attack": 7, "game": "x"})):
        write_json_atomic(hostile.with_stem(name * 32), envelope({"key": odd}, {}), indent=None)
    (store / "game" / "ab" / f"{'0' * 64}.json").write_text("{")
    assert main(["list", "--dir", str(store)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:-1]]
    words = {tuple(line[:4]) for line in lines}
    assert ("victim", "mlp of unlearning.learning.plain_learning", "digits", "3") in words
    assert ("attack", "requests of random against first_order, mlp", "digits", "3") in words
    assert ("game", "random against first_order, defense influence, mlp (request game)", "digits", "3") in words
    assert ("game", "damaged: it is not JSON", "?", "?") in words
    assert any("\\x1b[2Jb against ?" in line[1] for line in lines)  # a terminal would obey the sign itself
    assert all(line[4].endswith(("B", "byte", "bytes")) and line[5] == "now" for line in lines)


def test_the_reader_may_leave(tmp_path: Path) -> None:
    for i in range(3000):
        path = tmp_path / "game" / "ab" / f"{i:064x}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    script = ROOT / "experiments" / "store.py"
    listing = subprocess.Popen(
        [sys.executable, script, "list", "--dir", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.read(10)
    listing.stdout.close()
    assert listing.stderr.read() == b""
    assert listing.wait(timeout=60) == 1
