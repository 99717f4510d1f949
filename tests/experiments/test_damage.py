"""Random damage to every kind of stored file: noticed, said and made good, never a wrong number and no traceback.

DAMAGES=200 in the environment damages each kind of file so often; it is less by default, which takes some seconds.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from experiments.listing import command as store_command
from experiments.listing import results
from experiments.listing.index import NAME, SHORT
from experiments.play.play import play_config
from experiments.report_page import report
from experiments.report_page.claims import read_tables
from storage.records import checked, write_json_atomic
from storage.store import Store
from tests.experiments.games import config
from tests.experiments.report_page import synthetic
from tests.experiments.small_sweeps import TINY

DAMAGES = int(os.environ.get("DAMAGES", "6"))
KINDS = {  # what is damaged, by the pattern of its path in the fixture's folder
    "game": "store/game/??/*.json", "attack": "store/attack/??/*.json", "victim": "store/victim/??/*.safetensors",
    "description": "store/victim/??/*.safetensors.json", "step": "store/step/??/*.safetensors",
    "step's description": "store/step/??/*.safetensors.json", "index": f"store/{NAME}", "short index": f"store/{SHORT}",
    "table": "tables/*/table.json", "result": "out*/result.json", "sweep": "sweep.json",
}  # fmt: skip


JSON = (b"null", b"[]", b"{}", b'{"payload":NaN}', b"[" * 5000, b'{"key":{},"payload":{}}', b"1e999")


@dataclass(frozen=True)
class Truth:
    """What undamaged files hold: records and tensors by file, keys by file, the frame, and the tables."""

    folder: Path
    records: dict[str, Any]
    tensors: dict[str, dict[str, torch.Tensor]]
    keys: dict[str, Any]
    frame: pandas.DataFrame
    tables: dict[str, Any]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    folder = tmp_path_factory.mktemp("truth")
    store = folder / "store"
    for seed in (0, 1):
        play_config(config(folder, *TINY, "attack=random", f"seed={seed}", "figures=false"), folder / f"out{seed}")
        Store(store).keep_tensors("step", {"seed": seed, "asked": "x"}, {"parameter/w": torch.arange(5.0) + seed})
        write_json_atomic(folder / "tables" / f"t{seed}" / "table.json", checked(synthetic.table(f"t{seed}")))
    write_json_atomic(folder / "sweep.json", {"schema": 1, "cells": []})
    frame = results.frame(store)
    keys, records, tensors = {}, {}, {}
    for path in sorted(store.glob("*/??/*")):
        if path.suffix == ".json" and not path.name.endswith(".safetensors.json"):
            whole = json.loads(path.read_text())
            keys[path.name], records[path.name] = whole["key"], whole["payload"]
        elif path.suffix == ".safetensors":
            keys[path.name] = json.loads(path.with_name(f"{path.name}.json").read_text())["key"]
            found = Store(store).find_tensors(path.parent.parent.name, keys[path.name])
            assert found is not None
            tensors[path.name] = found[1]
    tables = {each["name"]: each for each in read_tables(folder / "tables")[0]}
    assert (len(records), len(tensors), len(tables), len(frame)) == (4, 4, 2, 4)
    return Truth(folder, records, tensors, keys, frame, tables)


def damage(path: Path, rng: random.Random) -> str:
    """Damage the file in one of many ways, and say in which."""
    raw = bytearray(path.read_bytes())
    digits = [found.start() for found in re.finditer(rb"\d", bytes(raw))]
    kind = rng.choice(["bit", "digit", "bits", "cut", "emptied", "zeros", "swapped", "json", "noise", "twice", "word"])
    if kind == "bit":
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "digit" and digits:
        place = rng.choice(digits)
        raw[place] = rng.choice([d for d in b"0123456789" if d != raw[place]])
    elif kind == "bits":
        for _ in range(rng.randrange(2, 200)):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del raw[rng.randrange(len(raw)) :]
    elif kind == "emptied":
        raw.clear()
    elif kind == "zeros":
        start = rng.randrange(len(raw))
        raw[start : start + 512] = bytes(len(raw[start : start + 512]))
    elif kind == "swapped" and (others := [p for p in path.parent.parent.glob(f"*/*{path.suffix}") if p != path]):
        other = rng.choice(others)
        raw[:], theirs = other.read_bytes(), bytes(raw)
        other.write_bytes(theirs)
    elif kind == "json":
        raw[:] = rng.choice(JSON)
    elif kind == "noise":
        raw[:] = rng.randbytes(rng.randrange(1, 5000))
    elif kind == "twice":
        raw += bytes(raw)
    elif words := list(re.finditer(rb"[a-z_]{3,}", bytes(raw))):
        word = rng.choice(words)
        raw[word.start() : word.end()] = word[0][::-1]
    stat = path.stat()
    path.write_bytes(raw)
    if rng.random() < 0.5:  # as a disk does it: without a trace in the file's times
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return kind


def same(left: pandas.DataFrame, right: pandas.DataFrame, but: tuple[str, ...] = ("path",)) -> bool:
    """Whether every row of `left` is one of `right`, but for where the record lies."""
    return lines(left, but) <= lines(right, but)


def lines(frame: pandas.DataFrame, but: tuple[str, ...]) -> set[str]:
    columns = [name for name in frame.columns if name not in but]
    rows = frame[columns].to_numpy(dtype=object).tolist() if len(frame) else ()
    return {repr([None if value is None or value != value else str(value) for value in row]) for row in rows}


def check_views(mine: Path, truth: Truth, page: bool = False, mended: bool = False) -> None:
    """`results.py`, `report.py` and `store.py`: the true rows, or fewer and the record that is missing named."""
    store = mine / "store"
    for _ in range(2):  # the second time from the index as the first left it
        for asked in ((), None):
            frame = results.frame(store, notify=lambda _: None, asked=asked)
            assert same(frame, truth.frame[list(frame.columns)], ("path", "created") if mended else ("path",))
            assert len(frame) + 2 * len(frame.attrs["unreadable"]) == len(truth.frame)
    for arguments in (["list"], ["prune", "--damaged", "--dry-run"]):
        assert store_command.main([*arguments, "--dir", str(store)]) == 0
    for table in read_tables(mine / "tables")[0]:
        assert table == truth.tables[table["name"]]
    if page:
        output = ["--output", str(mine / "page.html"), "--tables", str(mine / "tables"), "--figures", "0"]
        assert report.main(["--store", str(store), *output]) == (0 if len(frame) else 2)


def check_games(mine: Path, truth: Truth) -> None:
    """`run.py`, sweeps and `tables.py`: what is served is what was stored, and what is not is computed again."""
    said: list[str] = []
    store = Store(mine / "store", notify=said.append)
    for name, record in truth.records.items():
        [path] = (truth.folder / "store").glob(f"*/??/{name}")
        kind, key = path.parent.parent.name, truth.keys[name]
        there = mine / path.relative_to(truth.folder)
        found = store.find_record(there)  # a finished cell of a sweep or a table
        assert found is None or found == record
        made, hit = store.record(kind, key, lambda record=record: record)  # type: ignore[misc]
        assert made == record
        assert hit or said or not there.exists()
        assert store.record(kind, key, dict) == (record, True)  # it was mended
    for name, tensors in truth.tensors.items():
        [path] = (truth.folder / "store").glob(f"*/??/{name}")
        kind, key = path.parent.parent.name, truth.keys[name]
        found = store.find_tensors(kind, key)
        made, _ = store.tensors(kind, key, lambda tensors=tensors: tensors)  # type: ignore[misc]
        again, hit = store.tensors(kind, key, dict)
        assert hit
        for each in (made, again, *([found[1]] if found else [])):
            assert list(each) == list(tensors)
            assert all(torch.equal(each[part], tensors[part]) for part in tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_random_damage(kind: str, truth: Truth, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: set[str] = set()
    for turn in range(DAMAGES):
        rng = random.Random(f"{kind} {turn}")
        mine = tmp_path / str(turn)
        shutil.copytree(truth.folder, mine, copy_function=shutil.copy2)
        for asked in ((), None):
            results.frame(mine / "store", asked=asked)  # the indexes of this place
        if kind == "index" and rng.random() < 0.5:
            with_journal = mine / "store" / f"{NAME}-journal"
            with_journal.write_bytes((mine / "store" / NAME).read_bytes()[:700])
        path = rng.choice(sorted(p for p in mine.glob(KINDS[kind]) if p.is_file()))
        how = damage(path, rng)
        seen.add(how)
        try:
            check_views(mine, truth, page=turn % 6 == 0)
            check_games(mine, truth)
            check_views(mine, truth, mended=True)
        except Exception as error:
            raise AssertionError(f"damage {turn} to {path.name} ({how})") from error
        shutil.rmtree(mine)
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    assert len(seen) > 2


def test_a_record_changed_in_place_under_its_old_times_is_noticed(truth: Truth, tmp_path: Path) -> None:
    """The index knows the file by more than its size and its time, which a copy or a tool may keep."""
    mine = tmp_path / "store"
    shutil.copytree(truth.folder / "store", mine)
    assert len(results.frame(mine)) == 4
    first, second = sorted(mine.glob("game/??/*.json"))
    stat, raw = first.stat(), first.read_bytes()
    place = raw.index(b'"confidence":[0.') + len(b'"confidence":[0.')
    digit = b"7" if raw[place : place + 1] != b"7" else b"3"
    first.write_bytes(raw[:place] + digit + raw[place + 1 :])
    os.utime(first, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    frame = results.frame(mine, notify=lambda _: None)
    assert frame.attrs["unreadable"] == [(str(first), "its content has changed")]
    first.write_bytes(second.read_bytes())
    frame = results.frame(mine, notify=lambda _: None)
    assert frame.attrs["unreadable"] == [(str(first), "it belongs to another key")]
    assert len(frame) == 2


def games_of(index: Path) -> Iterator[tuple[int, bytes]]:
    raw = index.read_bytes()
    yield from ((found.start(), found[0]) for found in re.finditer(rb"0\.\d{6,}", raw))


def test_a_digit_of_the_index_does_not_stay(truth: Truth, tmp_path: Path) -> None:
    mine = tmp_path / "store"
    shutil.copytree(truth.folder / "store", mine)
    results.frame(mine)
    places = list(games_of(mine / NAME))
    assert len(places) > 100
    for place, number in random.Random(0).sample(places, 10):
        raw = bytearray((mine / NAME).read_bytes())
        raw[place + len(number) - 1] ^= 1
        (mine / NAME).write_bytes(raw)
        said: list[str] = []
        frame = results.frame(mine, said.append)
        assert len(frame) == 4
        assert same(frame, truth.frame)
        assert len(said) == 1
        assert "is damaged (its content has changed); it is made anew" in said[0]
        assert results.frame(mine, said.append) is not None
        assert len(said) == 1
