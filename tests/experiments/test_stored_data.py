"""What is stored is data: a record, a table or any other file of a received store runs nothing."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data.naming import AUTOMATIC
from experiments.listing import command as store_command
from experiments.listing import results
from experiments.listing.index import NAME, SHORT
from experiments.play.play import play_config
from experiments.report_page import report
from experiments.report_page.claims import read_tables
from storage.artifact import digest, envelope, sealed
from storage.records import canonical_json, checked, sha256, write_json_atomic
from storage.store import Store
from tests.experiments.games import config
from tests.experiments.report_page.pages import parse
from tests.experiments.small_sweeps import TINY
from tests.test_architecture import MAY_IMPORT, file_of, imports, imports_at_run_time

OF_EXPERIMENTS = ("report_page.report", "listing.results", "listing.command", "listing.index", "cli.reproduce")
READERS = ("storage.inventory", "storage.artifact", *(f"experiments.{name}" for name in OF_EXPERIMENTS))
# What the user composes and types is read by these.
TYPED = tuple(f"experiments.cli.{name}" for name in ("roles", "arguments", "options"))


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    play_config(config(folder, *TINY, "attack=uncertainty", "figures=false"), folder / "out")
    return folder


@pytest.fixture
def store(played: Path, tmp_path: Path) -> Path:
    shutil.copytree(played / "store", tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A component that runs code when it is built; afterwards it is made sure that none ran."""
    file, mark = tmp_path / "trap.pkl", tmp_path / "it ran"
    file.write_bytes(pickle.dumps(Evil(mark)))
    yield {"_target_": "pandas.read_pickle", "filepath_or_buffer": str(file)}
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists()  # and it would have


def forge(store: Path, change: Any) -> Path:
    """Another game, under the name that belongs to its key, with check sums that fit."""
    every = (json.loads(path.read_text()) for path in sorted(store.glob("game/??/*.json")))
    whole = next(each for each in every if "forged" not in each["key"])
    change(whole["key"]["victim"], whole["payload"]["config"])
    change(whole["key"], whole["payload"])
    name = digest("game", canonical_json(whole["key"]))
    description = {part: whole[part] for part in ("kind", "key", "created", "toolkit")}
    forged = store / "game" / name[:2] / f"{name}.json"
    write_json_atomic(forged, envelope(description, whole["payload"]), indent=None)
    return forged


def look(store: Path, tmp_path: Path) -> str:
    """Everything that reads a store; the page."""
    page, tables = tmp_path / "page.html", tmp_path / "tables"
    assert results.main(["--store", str(store), "--columns"]) == 0
    assert results.main(["--store", str(store), "part=over", "--csv", str(tmp_path / "all.csv")]) == 0
    assert report.main(["--store", str(store), "--output", str(page), "--tables", str(tables), "--figures", "1"]) == 0
    assert store_command.main(["list", "--dir", str(store)]) == 0
    assert store_command.main(["prune", "--damaged", "--dry-run", "--dir", str(store)]) == 0
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("where", ["unlearning.solver", "unlearning", "attack", "attack.functional", "defense", "data"])
def test_a_forged_record_runs_nothing(where: str, store: Path, tmp_path: Path, trap: dict[str, Any]) -> None:
    """With the access that would have to be settled, and without."""

    def change(key: dict[str, Any], payload: dict[str, Any]) -> None:
        *outer, last = where.split(".")
        for node in (key, payload):
            for name in outer:
                node = node.get(name, {})
            if outer or last in node:
                node[last] = dict(trap)
        payload[AUTOMATIC] = ["attack.access"]

    path = forge(store, change)
    assert str(trap["filepath_or_buffer"]) in path.read_text()
    found = parse(look(store, tmp_path))
    commands = " ".join(found.json["cells"]["labels"]["command"])
    assert len(found.json["cells"]["labels"]["command"]) == 2
    assert "trap.pkl" in commands  # it is said, as text
    frame = results.frame(store)
    assert len(frame) == 4
    assert frame.attrs["unreadable"] == []


def test_other_files_of_a_store_run_nothing(store: Path, tmp_path: Path, trap: dict[str, Any]) -> None:
    """Something like a proof, pickles under every name that is read, and an index that is one."""
    evil = Path(trap["filepath_or_buffer"]).read_bytes()
    key = {"proof": trap, "steps": [trap]}
    name = digest("proof", canonical_json(key))
    description = {"kind": "proof", "key": key, "created": "2026-01-01", "toolkit": "0"}
    proof = store / "proof" / name[:2] / f"{name}.json"
    write_json_atomic(proof, envelope(description, {"claim": trap, "_target_": "os.abort"}), indent=None)
    (proof.parent / f"{name}.pkl").write_bytes(evil)
    (store / "game" / name[:2]).mkdir(exist_ok=True)
    (store / "game" / name[:2] / f"{name}.json").write_bytes(evil)
    for index in (NAME, SHORT):
        (store / index).write_bytes(evil)
    [victim] = store.glob("victim/??/*.safetensors")
    described = json.loads(victim.with_name(f"{victim.name}.json").read_text())
    del described["seal"]
    victim.write_bytes(evil)
    write_json_atomic(victim.with_name(f"{victim.name}.json"), sealed({**described, "sha256": sha256(evil)}))
    said: list[str] = []
    mine = Store(store, notify=said.append)
    made, hit = mine.tensors("victim", described["key"], lambda: {"w": torch.ones(2)})
    assert not hit
    assert made["w"].tolist() == [1.0, 1.0]
    assert "it holds no tensors of ours" in said[0]
    assert mine.find_record(proof) is not None  # a record as any other
    look(store, tmp_path)


def test_a_tables_json_runs_nothing(store: Path, tmp_path: Path, trap: dict[str, Any]) -> None:
    text = "<script>alert(1)</script>"
    claim = {"text": text, "verdict": "holds", "unit": trap, "effect": trap, "test": "${oc.env:HOME}"}
    table = {"name": "evil", "title": trap, "claims": [claim, trap], "markdown": "<b>x</b>", "_target_": "os.abort"}
    (tmp_path / "tables" / "evil").mkdir(parents=True)
    (tmp_path / "tables" / "evil" / "table.json").write_text(json.dumps(checked(table)))
    assert len(read_tables(tmp_path / "tables")[0]) == 1
    page = look(store, tmp_path)
    assert "trap.pkl" in page
    assert "<script>alert(1)" not in page
    assert os.environ["HOME"] not in parse(page).text.replace(str(tmp_path), "")


def test_a_record_of_another_form_is_left_out_or_shown(store: Path, tmp_path: Path) -> None:
    """Whatever stands where a part of a game should be: no traceback, and the other game is there."""
    parts = ("config", "unlearning", "attack", "targets", "requests", "victim_seed", "seconds", "seed", "detection")
    for where, value in itertools.product(parts, (None, 7, [], "text", {}, {"_target_": 7}, {"_target_": "x"}, "inf")):

        def change(key: dict[str, Any], payload: dict[str, Any], where: str = where, value: Any = value) -> None:
            for node in (key, payload):
                if where in node:
                    node[where] = value
            key["forged"] = [where, value]

        forge(store, change)
    frame = results.frame(store)
    assert len(list(store.glob("game/??/*.json"))) == 1 + 9 * 8
    readable = set(frame["path"])
    assert len(readable) + len(frame.attrs["unreadable"]) == 1 + 9 * 8
    assert store_command.main(["list", "--dir", str(store)]) == 0
    own = next(path for path in readable if "forged" not in json.loads(Path(path).read_text())["key"])
    output = ["--output", str(tmp_path / "page.html"), "--figures", "2"]
    for path in sorted(readable - {own})[:: 1 + len(readable) // 5]:  # the page of each, beside the true game
        few = tmp_path / Path(path).stem
        for each in (own, path):
            (few / "game" / Path(each).parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(each, few / "game" / Path(each).parent.name)
        assert report.main(["--store", str(few), *output]) in (0, 2)


def closure(*names: str, but: tuple[str, ...] = ()) -> set[str]:
    """The modules of these names and what they import, as far as it is ours; `but` are not followed."""
    seen: set[str] = set()
    todo = [*names]
    while todo:
        module = todo.pop()
        if module in seen or module in but:
            continue
        seen.add(module)
        found = imports_at_run_time(file_of(module))
        todo += [name for name in found if name.partition(".")[0] in MAY_IMPORT and file_of(name).is_file()]
    return seen


def test_who_reads_what_is_stored_cannot_build_it() -> None:
    """No module that reads a store, nor any that it imports, can import by name, build a component, or unpickle.

    But for those that parse the command line and build the games of `conf/` and of the user's folders: they know no
    store.
    """
    readers = closure(*READERS, but=TYPED)
    for module in readers:
        for name in imports(file_of(module)):
            forbidden = name.partition(".")[0] in ("hydra", "pickle", "importlib", "marshal", "shelve", "runpy")
            assert not forbidden or name == "importlib.metadata", f"{module} imports {name}"
        text = file_of(module).read_text(encoding="utf-8")
        runs = re.search(r"(?<![.\w`])(eval|exec)\(|__import__|torch\.load|read_pickle", text)  # not model.eval()
        assert runs is None, f"{module} has {runs}"
    assert "experiments.cli.build" not in readers
    assert "experiments.report_page.encode" in readers
    assert not [name for name in closure(*TYPED) if name.startswith(("storage", "experiments.listing"))]
