import errno
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from experiments.listing.command import main
from storage import forms
from storage.inventory import artifacts, chosen, is_damaged, leftovers, remove, strays
from storage.records import canonical_json, jsonable, write_json_atomic
from storage.store import Store

ROOT = Path(__file__).resolve().parents[2]


def prune(folder: Path, **conditions) -> tuple[int, int, int]:
    """What `store.py prune` does; the numbers of artifacts and left-over files, and their bytes."""
    found = chosen(folder, **conditions)
    remove(found)
    left, freed = strays(folder, conditions.get("kind"))
    return len(found), left, freed + sum(each.size for each in found)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path, said) -> Store:
    return Store(tmp_path / "store", notify=said.append)


def forbidden():
    raise AssertionError("computed although it is stored")


def make_tensors():
    weight = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    return {"z.weight": weight.T, "a.view": weight[0], "steps": torch.tensor(3), "none": torch.empty(0)}


def files(store: Store, suffix: str) -> list[Path]:
    return sorted(p for p in store.folder.rglob(f"*{suffix}") if p.is_file())


def test_tensors_come_back_equal_in_order_and_are_not_computed_twice(store):
    made, hit = store.tensors("victim", {"seed": 0}, make_tensors)
    read, again = store.tensors("victim", {"seed": 0}, forbidden)
    assert (hit, again) == (False, True)
    assert list(read) == list(made) == ["z.weight", "a.view", "steps", "none"]
    for name, tensor in make_tensors().items():
        assert torch.equal(read[name], tensor)
        assert torch.equal(made[name], tensor)
        assert read[name].dtype == made[name].dtype == tensor.dtype


def test_another_key_or_kind_is_another_artifact(store):
    store.record("game", {"seed": 0}, lambda: {"score": 0})
    assert store.record("game", {"seed": 1}, lambda: {"score": 1}) == ({"score": 1}, False)
    assert store.record("report", {"seed": 0}, lambda: {"score": 2}) == ({"score": 2}, False)
    assert store.record("game", {"seed": 0.0}, lambda: {"score": 3}) == ({"score": 3}, False)
    assert store.record("game", {"seed": 0}, forbidden) == ({"score": 0}, True)


def test_a_record_is_the_same_on_a_miss_and_on_a_hit(store):
    payload = {"pair": (1, 2), "nan": float("nan"), "score": torch.tensor(0.1, dtype=torch.float64), "z": 1, "a": None}
    made, _ = store.record("game", {"path": Path("x")}, lambda: payload)
    read, hit = store.record("game", {"path": Path("x")}, forbidden)
    assert hit
    assert made == read == {"pair": [1, 2], "nan": "nan", "score": 0.1, "z": 1, "a": None}
    assert list(read) == list(made)


def test_a_disabled_store_computes_and_writes_nothing(tmp_path):
    store = Store(tmp_path / "store", enabled=False)
    store.check()
    assert store.record("game", {}, lambda: {"n": 1}) == ({"n": 1}, False)
    assert store.record("game", {}, lambda: {"n": 2}) == ({"n": 2}, False)
    assert not store.folder.exists()


@pytest.mark.parametrize("place", [20, -5])
def test_a_changed_byte_is_noticed_said_and_computed_again(store, said, place):
    store.tensors("victim", {"seed": 0}, make_tensors)
    path = files(store, ".safetensors")[0]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    read, hit = store.tensors("victim", {"seed": 0}, make_tensors)
    assert not hit
    assert torch.equal(read["a.view"], make_tensors()["a.view"])
    assert said == [f"Store: {path} is damaged (its content has changed); computing it again."]
    assert store.tensors("victim", {"seed": 0}, forbidden)[1]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"key": {"seed": 0}, "payload": {"n": 2}, "sha256": "0"}'])
def test_a_damaged_record_is_noticed_and_computed_again(store, said, content):
    store.record("game", {"seed": 0}, lambda: {"n": 1})
    files(store, ".json")[0].write_text(content)
    assert store.record("game", {"seed": 0}, lambda: {"n": 1}) == ({"n": 1}, False)
    assert len(said) == 1
    assert "is damaged" in said[0]


def test_an_artifact_under_another_keys_name_is_not_believed(store, said):
    store.record("game", {"seed": 0}, lambda: {"n": 0})
    store.record("game", {"seed": 1}, lambda: {"n": 1})
    first, second = files(store, ".json")
    first.write_bytes(second.read_bytes())
    assert store.record("game", {"seed": 0}, lambda: {"n": 0})[0] == {"n": 0}
    assert store.record("game", {"seed": 1}, lambda: {"n": 1})[0] == {"n": 1}
    assert len(said) == 1
    assert "belongs to another key" in said[0]


def test_missing_tensors_are_damage_and_a_missing_description_is_an_unfinished_write(store, said):
    store.tensors("victim", {}, make_tensors)
    files(store, ".safetensors")[0].unlink()
    assert not store.tensors("victim", {}, make_tensors)[1]
    assert len(said) == 1
    assert "tensors are missing" in said[0]
    files(store, ".safetensors.json")[0].unlink()
    assert not store.tensors("victim", {}, make_tensors)[1]
    assert len(said) == 1
    assert store.tensors("victim", {}, forbidden)[1]


def test_a_full_disk_costs_the_cache_and_not_the_result(store, said, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(forms, "write_json_atomic", full)
    assert store.record("game", {}, lambda: {"n": 1}) == ({"n": 1}, False)
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert not files(store, ".json")


def test_a_failing_computation_leaves_nothing_and_frees_the_lock(store):
    with pytest.raises(ZeroDivisionError):
        store.record("game", {}, lambda: {"n": 1 // 0})
    assert store.record("game", {}, lambda: {"n": 1}) == ({"n": 1}, False)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Not a directory.*set store.dir=FOLDER or store.enabled=false\.$"):
        Store(tmp_path / "file" / "store").check()
    good = Store(tmp_path / "store")
    good.check()
    assert not list(good.folder.iterdir())


def test_kinds_are_plain_names(store):
    with pytest.raises(ValueError, match="kind"):
        store.record("../game", {}, dict)


def write_until_killed(folder: Path, turn: int) -> None:
    store = Store(folder)
    for i in range(100_000):
        key = {"turn": turn, "i": i}
        store.tensors("victim", key, lambda i=i: {"w": torch.full((20_000,), float(i))})
        store.record("game", key, lambda i=i: {"i": i})


def compute_slowly(folder: Path, counter: Path, ready, results) -> None:
    def make():
        with counter.open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return {"n": 1}

    ready.wait()
    results.put(Store(folder).record("game", {"seed": 0}, make))


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "safetensors.torch", "storage.store"])
    return context


def test_killed_at_any_moment_nothing_broken_is_left_to_read(store, said, processes):
    rng = random.Random(0)
    for turn in range(10):
        before = len(files(store, ".json"))
        process = processes.Process(target=write_until_killed, args=(store.folder, turn))
        process.start()
        while process.is_alive() and len(files(store, ".json")) == before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
        process.join()
        for artifact in artifacts(store.folder):
            assert not is_damaged(artifact)
    found = [json.loads(p.read_text())["key"] for p in files(store, ".safetensors.json")]
    assert len(found) > 10
    for key in found:
        tensors, hit = store.tensors("victim", key, forbidden)
        assert hit
        assert bool((tensors["w"] == key["i"]).all())
    for turn in range(10):  # the same work again: finished artifacts are served, the one that was cut short is made
        for i in range(1 + max((key["i"] for key in found if key["turn"] == turn), default=0)):
            value, _ = store.tensors("victim", {"turn": turn, "i": i}, lambda i=i: {"w": torch.full((9,), float(i))})
            assert float(value["w"][0]) == i
    assert said == []
    prune(store.folder, damaged=True)
    assert not list(leftovers(store.folder))
    assert not files(store, ".tmp")


def test_two_processes_compute_one_key_once(store, tmp_path, processes):
    ready, results, counter = processes.Event(), processes.Queue(), tmp_path / "counter"
    workers = [processes.Process(target=compute_slowly, args=(store.folder, counter, ready, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    ready.set()
    answers = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert counter.read_text() == "x"
    assert sorted(hit for _, hit in answers) == [False, True]
    assert all(record == {"n": 1} for record, _ in answers)


def fill(store: Store) -> None:
    store.tensors("victim", {"seed": 0}, make_tensors)
    store.record("game", {"seed": 0}, lambda: {"n": 1})
    store.record("game", {"seed": 1}, lambda: {"n": 2})


def test_list_shows_every_artifact_and_the_total(store, capsys):
    fill(store)
    assert main(["list", "--dir", str(store.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines[:-1]] == ["kind", "game", "game", "victim"]
    assert lines[-1].startswith("3 artifacts, ")
    assert main(["list", "--dir", str(store.folder), "--kind", "victim"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 artifacts, ")


def test_prune_by_kind_age_and_damage(store, capsys):
    fill(store)
    old = files(store, ".safetensors")[0]
    os.utime(old, (time.time() - 3 * 86_400,) * 2)
    bad = next(p for p in files(store, ".json") if p.parent.parent.name == "game")
    bad.write_text("{")
    assert main(["prune", "--dir", str(store.folder), "--older-than", "2", "--dry-run"]) == 0
    assert "Would remove 1 artifacts" in capsys.readouterr().out
    assert old.exists()
    assert prune(store.folder, kind="game", older_than=2)[0] == 0
    assert prune(store.folder, damaged=True)[0] == 1
    assert not bad.exists()
    assert prune(store.folder, older_than=2)[0] == 1
    assert not old.exists()
    assert prune(store.folder)[0] == 1
    assert not [p for p in store.folder.rglob("*") if p.is_file()]


def test_prune_clears_what_killed_runs_left_and_spares_work_in_progress(store):
    fill(store)
    path = files(store, ".safetensors")[0]
    stale = path.with_name(f"{path.name}.123-abcdef01.tmp")
    stale.write_bytes(b"half")

    def make():
        assert prune(store.folder, kind="game", damaged=True) == (0, 0, 0)
        return {"n": 1}

    store.record("game", {"seed": 2}, make)
    assert list(leftovers(store.folder)) == [(stale, path)]
    assert prune(store.folder, damaged=True) == (0, 1, 4)
    assert not stale.exists()
    assert store.tensors("victim", {"seed": 0}, forbidden)[1]


def test_prune_leaves_an_artifact_that_is_being_computed(store):
    counts = []

    def make():
        path = store.folder / "game"
        leftover = next(path.rglob("*.lock")).name.removesuffix(".lock")
        (next(path.iterdir()) / f"{leftover}.1-aa.tmp").write_bytes(b"half")
        counts.append(prune(store.folder))
        return {"n": 1}

    store.record("game", {"seed": 3}, make)
    assert counts == [(0, 0, 0)]
    assert prune(store.folder, damaged=True)[:2] == (0, 1)


@pytest.mark.parametrize("argv", [[], ["burn"], ["prune", "--older-than", "-1"], ["list", "--dir", "nowhere"]])
def test_bad_input_ends_with_code_2(argv, capsys):
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert capsys.readouterr().err.strip()


def test_the_command_runs_as_a_script_without_torch(tmp_path):
    environment = {**os.environ, "UNLEARNING_STORE": str(tmp_path / "mine")}
    script = ROOT / "experiments" / "store.py"
    done = subprocess.run([sys.executable, "-X", "importtime", script, "list"], env=environment, cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == f"The store {tmp_path / 'mine'} has no artifacts.\n"
    assert "| torch\n" not in done.stderr


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))  # fmt: skip
def test_jsonable_is_strict_json_that_reads_back_to_itself(obj):
    plain = jsonable(obj)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert jsonable(plain) == plain
    assert canonical_json(obj) == canonical_json(plain)


def test_jsonable_converts_scalars_arrays_paths_and_refuses_objects():
    import numpy as np

    obj = {1: np.float32(0.5), "i": np.int64(3), "b": np.bool_(True), "t": torch.tensor([1.0, float("inf")]),
           "d": torch.device("cpu"), "p": Path("a/b"), "s": {2, 1}, "n": np.float64("-inf")}  # fmt: skip
    assert jsonable(obj) == {"1": 0.5, "i": 3, "b": True, "t": [1.0, "inf"], "d": "cpu", "p": "a/b", "s": [1, 2],
                             "n": "-inf"}  # fmt: skip
    with pytest.raises(TypeError, match="object"):
        jsonable({"x": object()})
    with pytest.raises(ValueError, match="100,001"):
        jsonable(torch.zeros(100_001))
    with pytest.raises(ValueError, match="same text"):
        jsonable({1: 0, "1": 0})


def test_write_json_atomic_replaces_the_file_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "result.json"
    write_json_atomic(path, {"b": 1, "a": 2})
    with pytest.raises(TypeError):
        write_json_atomic(path, {"b": object()})
    assert path.read_text() == '{\n  "b": 1,\n  "a": 2\n}\n'
    assert list(path.parent.iterdir()) == [path]
