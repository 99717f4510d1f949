"""The rows of games, the index that keeps them, and the filters."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest

from data.errors import UserError
from experiments.cli.roles import known_games
from experiments.listing import command as store_command
from experiments.listing import index
from experiments.listing.index import NAME
from experiments.listing.results import frame, main, record, select
from experiments.listing.row import rows
from experiments.play.play import play_config
from games.request.game import RequestGame
from storage.artifact import envelope
from storage.records import write_json_atomic
from tests.experiments.games import ROOT, config
from tests.experiments.small_sweeps import TINY


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for options in (("attack=random",), ("attack=random", "defense=none"), ("attack=one_shot_influence", "seed=1")):
        play_config(config(folder, *TINY, *options, "figures=false"), folder / "out")
    return folder / "store"


def first(store: Path) -> tuple[Path, dict[str, Any]]:
    path = sorted(store.glob("game/??/*.json"))[0]
    return path, json.loads(path.read_text())["payload"]


def forge(path: Path, **entries: Any) -> None:
    """Change entries of a record, with check sums that fit."""
    whole = json.loads(path.read_text())
    description = {part: whole[part] for part in ("kind", "key", "created", "toolkit")}
    write_json_atomic(path, envelope(description, {**whole["payload"], **entries}), indent=None)


def test_rows_are_the_means_of_the_record(store: Path) -> None:
    path, game = first(store)
    table = frame(store)
    assert len(table) == 6
    assert set(table["part"]) == {"over", "under"}
    for direction in ("over", "under"):
        [row] = table[(table["digest"] == path.stem) & (table["part"] == direction)].to_dict("records")
        mine = [i for i, each in enumerate(game["targets"]["direction"]) if each == direction]
        after = [game["victim_seed"]["after"]["confidence"][i] for i in mine]
        control = [game["victim_seed"]["random"]["confidence"][i] for i in mine]
        assert row["confidence_after"] == pytest.approx(sum(after) / len(after), abs=1e-12)
        assert row["confidence_effect"] == pytest.approx((sum(after) - sum(control)) / len(after), abs=1e-12)
        sign = 1 if row["part"] == "over" else -1
        before = [game["victim_seed"]["before"]["confidence"][i] for i in mine]
        kept = [game["victim_seed"]["after"]["kept"][i] for i in mine]
        attained = [sign * (a - b) * k for a, b, k in zip(after, before, kept, strict=True)]
        assert row["attained_after"] == pytest.approx(sum(attained) / len(mine), abs=1e-6)
        assert row["effect"] == pytest.approx(row["attained_after"] - row["attained_random"], abs=1e-12)
        aims = {game["targets"]["aim"][i] for i in mine}
        accuracies = [game["victim_seed"]["after"]["models"]["accuracy"][aim] for aim in aims]
        assert row["accuracy_after"] == pytest.approx(sum(accuracies) / len(accuracies), abs=1e-12)
        assert row["attack.budget"] == 6
        assert row["targets"] == len(mine) == 1
        assert row["unlearning"] == "first_order"
        assert Path(row["path"]) == path


def test_what_is_not_defined_is_none(store: Path) -> None:
    table = frame(store)
    undefended = select(table, ["defense=none"])
    assert undefended["auroc"].isna().all()
    assert select(table, ["defense=influence", "attack=one_shot_influence"])["auroc"].notna().all()


def test_the_index_follows_the_records(store: Path, tmp_path: Path) -> None:
    mine = tmp_path / "store"
    for path in store.glob("game/??/*.json"):
        copy = mine / path.relative_to(store)
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
    said: list[str] = []
    assert len(frame(mine, said.append)) == 6
    paths = sorted(mine.glob("game/??/*.json"))
    paths[0].unlink()
    assert len(frame(mine, said.append)) == 4
    forge(paths[1], seed=77)
    os.utime(paths[1], ns=(1, 1))
    assert 77 in set(frame(mine, said.append)["seed"])
    assert said == []
    paths[1].write_text("{ damaged")
    table = frame(mine, said.append)
    assert len(table) == 2
    assert table.attrs["unreadable"] == [(str(paths[1]), "it is not JSON")]
    assert len(said) == 1
    assert "prune --damaged" in said[0]
    assert paths[1].read_text() == "{ damaged"  # left for its owner to look at


def test_a_record_of_an_unknown_game_is_no_damage(store: Path, tmp_path: Path) -> None:
    path, _ = first(store)
    copy = tmp_path / "store" / "game" / path.parent.name / path.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes())
    said: list[str] = []
    assert frame(tmp_path / "store", said.append, games={}).empty
    assert "its game 'request' is not known here" in said[0]
    assert said[0].endswith("--config-dir.")
    assert len(frame(tmp_path / "store", said.append)) == 2
    assert len(said) == 1


def test_games_are_listed_without_torch(store: Path) -> None:
    words = [sys.executable, "-X", "importtime", str(ROOT / "experiments" / "results.py"), "--store", str(store)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "6 rows" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert "pandas" in imported
    assert "torch" not in imported  # which takes a second


def test_an_older_form_is_left_out_by_name(store: Path, tmp_path: Path) -> None:
    path, _ = first(store)
    old = tmp_path / "store" / "game" / path.parent.name / path.name
    old.parent.mkdir(parents=True)
    old.write_bytes(path.read_bytes())
    forge(old, config=None)
    said: list[str] = []
    assert len(frame(tmp_path / "store", said.append)) == 0
    assert "not the form of a game" in said[0]


def test_a_damaged_index_is_made_anew(store: Path) -> None:
    (store / NAME).write_bytes(b"this is no data base, and long enough to be seen as such" * 50)
    said: list[str] = []
    assert len(frame(store, said.append)) == 6
    assert "made anew" in said[0]
    said.clear()
    assert len(frame(store, said.append)) == 6
    assert said == []


def test_a_new_version_of_the_rows_makes_a_new_index(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame(store)
    seen: list[Path] = []
    original = index._rows_of

    def counting(path: Path, **options: Any) -> index.Made:
        seen.append(path)
        return original(path, **options)

    monkeypatch.setattr(index, "_rows_of", counting)
    frame(store)
    assert not seen
    version = index._version(known_games())
    monkeypatch.setattr(index, "_version", lambda games: version[::-1])
    assert len(frame(store)) == 6
    assert len(seen) == 3


def test_rare_metrics_are_read_where_they_are_asked_for(store: Path) -> None:
    """Rows without them are the same but for them, whatever was asked before."""
    rare, usual = "entropy_after", {"effect", "effect_defended", "confidence_after", "kept_after:trials"}
    short, whole = frame(store, asked=["seed<3", "effect"]), frame(store)
    assert rare in whole.columns
    assert rare not in short.columns
    assert usual <= set(short.columns)
    assert whole[list(short.columns)].equals(short)
    for asked in ([], ["seed", rare], [f"{rare} >= -9"], ["no such column"]):
        assert frame(store, asked=asked).equals(whole if asked else short)


def test_a_record_that_lacks_a_rare_metric_is_named_where_one_is_asked_for(store: Path, tmp_path: Path) -> None:
    """As those of an older version may; and once, whatever was asked before."""
    mine = tmp_path / "store"
    shutil.copytree(store, mine)
    path, _ = first(mine)
    forge(path, in_sequence=None)
    for _ in range(2):
        for asked, count in (([], 6), (["effect>-9"], 6), (["entropy_after"], 4), (["entropy_after>-9"], 4), (None, 4)):
            said: list[str] = []
            table = frame(mine, said.append, asked=asked)
            assert len(table) == count
            assert len(said) == len(table.attrs["unreadable"]) == (6 - count) / 2
            assert str(path) in "".join(said) or count == 6


def test_a_store_that_cannot_be_written_is_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    (store / NAME).unlink()
    monkeypatch.setattr(index, "write_atomic", refuse)
    said: list[str] = []
    assert len(frame(store, said.append)) == 6
    assert len(said) == 1
    assert "cannot be kept" in said[0]
    assert "Read-only file system" in said[0]
    assert not (store / NAME).exists()


def test_filters(store: Path) -> None:
    table = frame(store)
    assert len(select(table, ["attack=random"])) == 4
    assert len(select(table, ["attack=random,one_shot_influence", "seed<1"])) == 4
    assert len(select(table, ["attack!=random"])) == 2
    assert len(select(table, ["seed>=1", "part=over"])) == 1
    assert len(select(table, ["attack.pool=null"])) == 6
    assert len(select(table, ["data.test=1197"])) == 6
    for wrong, text in (
        ("atack=random", "did you mean 'attack'"),
        ("attack", "cannot be read"),
        ("seed<x", "no number"),
        ("attack=typo", "No game has attack=typo; attack is one_shot_influence or random here."),
        ("attack=random,typo", "No game has attack=typo"),
        ("attack=", "No game has attack=;"),
        ("attack<3", "No game has attack<3; attack is one_shot"),
        ("sed=1", "did you mean 'seed'"),
    ):
        with pytest.raises(UserError, match=text):
            select(table, [wrong])


def test_command_line(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack=random", "--store", str(store)]) == 0
    assert "4 rows." in capsys.readouterr().out
    assert main(["--store", str(store), "--csv", str(tmp_path / "new" / "all.csv")]) == 0
    assert len(pandas.read_csv(tmp_path / "new" / "all.csv")) == 6
    assert main(["--store", str(store), "--columns"]) == 0
    assert "attack.budget" in capsys.readouterr().out
    assert main(["--store", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("Error: There is no store in")


def test_a_record_is_verified_when_it_is_read(store: Path, tmp_path: Path) -> None:
    path, game = first(store)
    assert record(path)["seed"] == game["seed"]
    with pytest.raises(UserError, match="There is no record"):
        record(tmp_path / "game" / "aa" / f"{'a' * 64}.json")
    assert rows(RequestGame(), record(path)) == rows(RequestGame(), game)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["attack=typo"], "No game has attack=typo; attack is one_shot_influence or random here."),
        (["--show", "efect"], "There is no column 'efect' to show; did you mean 'effect'?"),
        (["--limit", "-1"], "--limit: '-1' is not a whole number from 0 on"),
        (["--limit", "many"], "--limit: 'many' is not a whole number"),
        (["--limit"], "--limit needs a value"),
        (["--cvs", "x"], "There is no option '--cvs'; did you mean --csv?"),
        (["--csv", ""], "--csv: an empty name is no file"),
        (["--csv", "{file}/games.csv"], "games.csv cannot be written ("),
        (["--store", ""], "--store: an empty name"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], text: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    typed = [each.format(file=tmp_path / "file") for each in arguments]
    assert main(["--store", str(store), *typed]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith("Error: ")
    assert text in line


def test_a_question_whose_answer_is_none_is_answered(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for filters, text in (
        (["seed>1"], "No game has seed>1; seed is 0 or 1 here."),
        (["attack=one_shot_influence", "seed=0"], "No game passes all of attack=one_shot_influence seed=0."),
    ):
        assert main(["--store", str(store), *filters, "--csv", str(tmp_path / "none.csv")]) == 0
        assert len(pandas.read_csv(tmp_path / "none.csv")) == 0
        assert main(["--store", str(store), *filters]) == 0
        assert "0 rows." in capsys.readouterr().out
        assert text in caplog.text


def test_leaving_out_what_is_not_there_is_served_and_said(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(select(frame(store), ["attack!=typo"])) == 6
    assert "No game has attack=typo" in caplog.text


def test_a_store_without_games_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(tmp_path)]) == 2
    assert "has no finished games" in capsys.readouterr().err


def test_what_is_no_file_in_a_store_is_passed_over(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Links that lead nowhere, and a pipe, whose reading would never end."""
    shutil.copytree(store, tmp_path / "store")
    [folder, *_] = sorted((tmp_path / "store" / "game").iterdir())
    (folder / f"{'a' * 64}.json").symlink_to("nowhere")
    os.mkfifo(folder / f"{'b' * 64}.json")
    for name, to in (("c", f"{'c' * 64}.json"), ("d", f"{'b' * 64}.json")):  # in a circle, and to the pipe
        (folder / f"{name * 64}.json").symlink_to(to)
    assert len(frame(tmp_path / "store")) == 6
    for words in (["list"], ["prune", "--damaged", "--dry-run"]):
        assert store_command.main([*words, "--dir", str(tmp_path / "store")]) == 0
    assert "Would remove 0 artifacts" in capsys.readouterr().out


def test_columns_may_be_asked_for_in_parts_and_twice(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(store), "--show", "attack", "seed", "--show", "attack", "effect"]) == 0
    heading = next(line for line in capsys.readouterr().out.splitlines() if "attack" in line)
    assert heading.split() == ["attack", "seed", "effect"]
    for words, said in ((["--csv", "x", "--columns"], "leave out one"), (["--config-dir", "nope"], "is not a folder")):
        assert main(["--store", str(store), *words]) == 2
        assert said in capsys.readouterr().err
