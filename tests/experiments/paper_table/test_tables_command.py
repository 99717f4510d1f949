"""`experiments/tables.py` as a user runs it: games played once, tables written, failures listed, mistakes explained."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import warm
from tests.experiments.games import ROOT, command
from tests.experiments.small_sweeps import TINY

SHIPPED = sorted(path.stem for path in (ROOT / "conf" / "table").glob("*.yaml"))
SMALLER = {  # than their smallest size, whose settings are otherwise those of the table
    "certified": ("run.game.targets.count=1", "run.data.train=200"),
    "filter": ("run.training.epochs=3",),
    "uncertainty": ("run.training.epochs=3",),  # one row has a set of targets, which is no set of one
}
UNLIKE = {"date": "", "sha256": ""}  # of two runs; the check sum is of the date too
MINE: dict[str, Any] = {
    "title": "A small table",
    "source": "none",
    "about": "Two attacks.",
    "sizes": {"quick": {"seeds": 2, "overrides": [*TINY, "defense=none"], "about": "tiny"}},
    "axes": [
        {
            "label": "attack",
            "options": [
                {"name": "one_shot", "label": "one-shot", "overrides": ["attack=one_shot_influence"]},
                {"name": "random", "label": "random", "overrides": ["attack=random"]},
            ],
        }
    ],
    "columns": [{"metric": "gain", "label": "gain"}, {"metric": "auroc", "label": "AUROC"}],
    "claims": [
        {
            "id": "beats-random", "text": "It beats random requests", "row": "one_shot", "metric": "gain",
            "part": "over", "comparison": "greater", "against": {"row": "random"},
        }
    ],
}  # fmt: skip


def tables(cwd: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return warm.run("tables.py", *arguments, cwd=cwd, timeout=timeout, env={"COLUMNS": "160"})


def mine(folder: Path, **entries: Any) -> tuple[str, ...]:
    """The arguments that make a table of one's own."""
    (folder / "own" / "table").mkdir(parents=True, exist_ok=True)
    (folder / "own" / "table" / "mine.yaml").write_text(yaml.safe_dump({**MINE, **entries}))
    return ("--config-dir", "own", "table=mine", "store.dir=store")


def written(folder: Path, name: str = "mine-quick") -> dict[str, Any]:
    content = json.loads((folder / "outputs" / "tables" / name / "table.json").read_text())
    assert isinstance(content, dict)
    return content


def test_a_table_is_played_written_and_served(tmp_path: Path) -> None:
    listed = tables(tmp_path, *mine(tmp_path), "dry_run=true")
    assert listed.returncode == 0, listed.stderr
    assert "4 cells: 0 done, 4 to play" in listed.stdout
    assert not (tmp_path / "outputs" / "tables" / "mine-quick").exists()
    first = tables(tmp_path, *mine(tmp_path))
    assert first.returncode == 0, first.stderr
    assert "A small table" in first.stdout
    assert "It beats random requests" in first.stdout
    assert "[4/4] done" in first.stderr
    found = written(tmp_path)
    assert {
        "schema",
        "name",
        "title",
        "size",
        "command",
        "date",
        "seeds",
        "rows",
        "claims",
        "markdown",
        "provenance",
    } <= set(found)
    assert (found["name"], found["size"], found["seeds"]) == ("mine", "quick", 2)
    assert [(row["row"], row["part"]) for row in found["rows"]] == [
        ("one_shot", "over"), ("random", "over"), ("one_shot", "under"), ("random", "under")
    ]  # fmt: skip
    [claim] = found["claims"]
    assert claim["verdict"] in ("holds", "does not hold", "not decided")
    assert (claim["n_seeds"], claim["n"]) == (2, 2)
    assert claim["effect"] == pytest.approx(
        found["rows"][0]["values"]["gain"]["mean"] - found["rows"][1]["values"]["gain"]["mean"]
    )
    files = tmp_path / "outputs" / "tables" / "mine-quick"
    assert {path.name for path in files.iterdir()} == {"table.md", "table.csv", "table.tex", "table.json"}
    assert found["markdown"] == (files / "table.md").read_text()
    again = tables(tmp_path, *mine(tmp_path))
    assert again.returncode == 0
    assert "[" not in again.stderr  # nothing was played
    assert {**written(tmp_path), **UNLIKE} == {**found, **UNLIKE}


def test_a_seed_more_costs_one_seed(tmp_path: Path) -> None:
    assert tables(tmp_path, *mine(tmp_path), "seeds=1").returncode == 0
    assert "one pair: no spread" in written(tmp_path)["claims"][0]["detail"]
    more = tables(tmp_path, *mine(tmp_path), "seeds=3", "dry_run=true")
    assert "6 cells: 2 done, 4 to play" in more.stdout


def test_what_failed_is_listed_and_the_rest_is_there(tmp_path: Path) -> None:
    """A row that cannot be played: a dash in the table, a reason beside the claim, exit code 1."""
    axes = json.loads(json.dumps(MINE["axes"]))
    axes[0]["options"][1]["overrides"] = ["attack=random", "attack.budget=1000"]
    done = tables(tmp_path, *mine(tmp_path, axes=axes))
    assert done.returncode == 1, done.stderr
    assert "Failed: random,seed=0; random,seed=1: " in done.stderr
    assert "2 of 4 cells failed" in done.stderr
    assert "Traceback" not in done.stderr
    found = written(tmp_path)
    assert found["rows"][0]["values"]["gain"]["seeds"] == 2
    assert found["rows"][1]["values"]["gain"] == {"mean": None, "low": None, "high": None, "seeds": 0, "n": 0}
    [claim] = found["claims"]
    assert claim["verdict"] == "not decided"
    assert claim["detail"] == "2 of 2 games of the row random could not be played"
    assert len(found["missing"]) == 2


def test_a_damaged_record_is_played_again(tmp_path: Path) -> None:
    assert tables(tmp_path, *mine(tmp_path)).returncode == 0
    found = written(tmp_path)
    damaged = sorted((tmp_path / "store" / "game").glob("??/*.json"))[0]
    damaged.write_text(damaged.read_text()[:-40])
    again = tables(tmp_path, *mine(tmp_path))
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("] done") == 1
    assert written(tmp_path)["rows"] == found["rows"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Choose a table: table=attacks or table=backdoor or table=burn or"),
        (("table=uncertanty",), "There is no table=uncertanty; did you mean table=uncertainty?"),
        (("table=uncertainty", "size=huge"), "has no size 'huge'; it has size=smallest ("),
        (("table=uncertainty", "seeds=0"), "seeds must be null or a whole number from 1 to 10,000, since each is"),
        (("table=uncertainty", "run=random"), "run is a list of overrides"),
        (
            ("table=uncertainty", "run.data.rot=x", "size=smallest"),
            "The table uncertainty, row single.retrain.white_box: ",
        ),
        (("table=uncertainty", "sise=quick"), "There is no option 'sise'; did you mean 'size'?"),
        (("table=uncertainty", "hydra/launcher=locl"), "There is no hydra/launcher=locl"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = tables(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: ")
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("table.*"))


def test_an_unknown_metric_names_the_nearest_before_anything_is_played(tmp_path: Path) -> None:
    done = tables(tmp_path, *mine(tmp_path, columns=[{"metric": "gian", "label": "gain"}]))
    assert done.returncode == 2
    assert done.stderr == "Error: The table mine, columns: there is no metric 'gian'; did you mean 'gain'?\n"
    assert not (tmp_path / "store").exists()


def test_an_output_folder_that_cannot_be_written_is_said_before_anything_is_played(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = tables(tmp_path, *mine(tmp_path), "output=file/here")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The table cannot be written in ")
    assert not list((tmp_path / "store").rglob("*.json"))


def test_help_names_every_table(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        command("--help", script="tables.py"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert time.monotonic() - began < 10  # it answers without torch; the time of this machine is its own
    line = next(line for line in done.stdout.splitlines() if line.startswith("table: "))
    assert set(SHIPPED) <= set(line.replace(",", "").split())
    for key in ("size:", "seeds:", "run:", "output:", "dry_run:", "store:"):
        assert key in done.stdout


IN_TURN = ("uncertainty", "certified", "fragility", "verification")  # the others are claims


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in IN_TURN else pytest.mark.claims)
        for name in SHIPPED
        if name != "procedures"  # the README's sweep plays those
    ],
)
def test_a_table_of_ours_at_its_smallest(name: str, tmp_path: Path) -> None:
    """Every row is played and every claim is tested; the second time nothing is."""
    arguments = (f"table={name}", "size=smallest", "seeds=1", "store.dir=store", *SMALLER.get(name, ()))
    done = tables(tmp_path, *arguments, timeout=900)
    assert done.returncode == 0, done.stderr
    found = written(tmp_path, f"{name}-smallest")
    metric = {"filter": "auroc", "certified": "accuracy_deleted_after"}.get(
        name, next(iter(found["rows"][0]["values"]))
    )
    for row in found["rows"]:
        repairs = name == "filter" and row["row"].endswith(".healing")  # it scores nothing
        assert row["values"][metric]["seeds"] == (0 if repairs else 1), row["row"]
        assert not repairs or row["values"]["success_defended"]["seeds"] == 1
    assert all(claim["n"] > 0 for claim in found["claims"])
    began = time.monotonic()
    again = tables(tmp_path, *arguments)
    print(f"{name}: served in {time.monotonic() - began:.1f} s")
    assert again.returncode == 0
    assert "done" not in again.stderr
    assert {**written(tmp_path, f"{name}-smallest"), **UNLIKE} == {**found, **UNLIKE}


def test_further_overrides_reach_every_game(tmp_path: Path) -> None:
    """And so do the workers that another launcher starts."""
    launcher = ("hydra/launcher=local", "hydra.launcher.workers=1")
    arguments = (*mine(tmp_path), "seeds=1", *launcher, "run.attack.budget=4", "run.data.root='a b'")
    refused = tables(tmp_path, *arguments)
    assert refused.returncode == 2  # digits have no root
    assert "The table mine, row one_shot: " in refused.stderr
    done = tables(tmp_path, *arguments[:-1])
    assert done.returncode == 0, done.stderr
    assert "run.attack.budget=4" in written(tmp_path)["command"]
    [file, _] = (tmp_path / "store" / "game").glob("??/*.json")
    assert json.loads(file.read_text())["payload"]["config"]["attack"]["budget"] == 4
