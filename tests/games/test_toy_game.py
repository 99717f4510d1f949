"""The role of a game suffices: a game outside the repository is played, swept, tabled, listed and reported like ours.

Nothing of the toolkit knows of it; a folder has its code, and a YAML each for the game, its attack and its defense.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import warm

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "toy.py": '''
from typing import ClassVar, Protocol

from pydantic.dataclasses import dataclass

from games.game import EVERYWHERE, WHOLE, Game, Metric


class Guesser(Protocol):
    def guess(self, turn: int) -> int: ...


class Dealer(Protocol):
    def deal(self, label: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Toy(Game):
    """The guesser wins a turn where it guesses the label that the dealer shows for a test example of the victim's."""

    name: ClassVar[str] = "toy"
    headline: ClassVar[str] = "hits"
    code: ClassVar[tuple[str, ...]] = ("toy",)
    turns: int = 20

    def roles(self):
        return {"attack": ("guesser", Guesser), "defense": ("dealer", Dealer)}

    def play(self, setup, seed):
        labels = setup.victim(seed).logits(setup.data.test.x[: self.turns]).argmax(dim=1).tolist()
        shown = [setup.defense.deal(label) for label in labels]
        return {"hits": [float(setup.attack.guess(turn) == label) for turn, label in enumerate(shown)]}

    def metrics(self):
        return [
            Metric(
                name="hits", label="hits (%)", help="share of turns that the guesser wins; higher is better for it.",
                values=lambda part: {str(turn): hit for turn, hit in enumerate(part.record["hits"])},
                share=True, scale="share", digits=1, shown=EVERYWHERE,
            ),
            Metric(name="turns", label="turns", help="turns.", values=lambda p: {WHOLE: float(len(p.record["hits"]))}),
        ]
''',
    "players.py": """
class Constant:
    game = "toy"

    def __init__(self, label: int = 0):
        self.label = label

    def guess(self, turn):
        return self.label


class Shift:
    game = "toy"

    def __init__(self, by: int = 0):
        self.by = by

    def deal(self, label):
        return (label + self.by) % 10
""",
    "attack/constant.yaml": """
defaults:
  - _self_
  - override /game@_global_.game: toy

_target_: players.Constant
label: 0
""",
    "defense/shift.yaml": "_target_: players.Shift\nby: 0\n",
    "game/toy.yaml": """
defaults:
  - _self_
  - override /defense@_global_.defense: shift

_target_: toy.Toy
turns: 20
""",
    "table/toys.yaml": """
title: Guesses
source: none
about: Two guessers.
sizes:
  quick: {seeds: 2, overrides: [model=logistic, training.epochs=2, data.train=300, data.test=1197]}
axes:
  - label: guess
    options:
      - {name: nothing, label: "10", overrides: [attack=constant, attack.label=10]}
      - {name: zero, label: "0", overrides: [attack=constant]}
columns:
  - metric: hits
  - {metric: turns, label: turns of a game, digits: 0}
claims:
  - {id: some, text: Zero wins some turns, row: zero, metric: hits, comparison: greater, against: {row: nothing}}
""",
}
SMALL = ("model=logistic", "training.epochs=2", "data.train=300", "data.test=1197")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    for name, text in FILES.items():
        path = folder / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip(), encoding="utf-8")
    return folder


def run(folder: Path, script: str, *words: str, code: int = 0) -> str:
    done = warm.run(script, *words, cwd=folder, env={"UNLEARNING_STORE": str(folder / "store")})
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_a_toy_game_is_played_and_kept(folder: Path) -> None:
    """The attack brings the game, and the game its defense; the headline is the score."""
    words = ("--config-dir", "mine", "attack=constant", *SMALL)
    out = run(folder, "run.py", *words, "game.turns=30", "hydra.run.dir=played")
    assert "toy game: constant against retrain with defense shift: logistic on digits" in out
    assert "hits (%)" in out
    result = read(folder / "played" / "result.json")
    [record] = result["games"]
    assert len(record["hits"]) == 30
    assert result["config"]["defense"]["_target_"] == "players.Shift"
    assert result["score"] == pytest.approx(sum(record["hits"]) / 30)
    assert result["summary"]["all"]["hits"]["mean"] == result["score"]
    again = run(folder, "run.py", *words, "game.turns=30", "hydra.run.dir=again")
    assert "hits (%)" in again
    assert read(folder / "again" / "result.json")["meta"]["served"] == [True]


def test_what_does_not_play_it_is_refused(folder: Path) -> None:
    """With one sentence, before anything is trained: a filter of another game, and an attack that is no guesser."""
    words = ("--config-dir", "mine", *SMALL)
    said = run(folder, "run.py", *words, "attack=constant", "defense=influence", code=2)
    assert said.startswith("Error: defense=influence plays the request game, and this is the toy game")
    said = run(folder, "run.py", *words, "attack=random", "game=toy", code=2)
    assert said.startswith("Error: attack=random plays the request game, and this is the toy game")
    said = run(folder, "run.py", *words, "attack=constant", "game=toy", "game.turms=3", code=2)
    assert "did you mean 'game.turns'" in said


def test_a_toy_game_is_swept_and_listed(folder: Path) -> None:
    out = run(folder, "run.py", "-m", "--config-dir", "mine", "attack=constant", "attack.label=0,1", *SMALL,
              "seed=range(2)")  # fmt: skip
    assert "Mean and 95% interval over games" in out
    assert "hits (%): share of turns that the guesser wins; higher is better for it." in out
    listed = run(folder, "results.py", "--config-dir", "mine", "game=toy", "game.turns=20", "--csv", "toys.csv")
    assert listed.startswith("4 rows")
    games = list(csv.DictReader((folder / "toys.csv").read_text(encoding="utf-8").splitlines()))
    assert [game["attack"] for game in games] == ["constant"] * 4
    assert all(0 <= float(game["hits"]) <= 1 for game in games)
    assert "hits" in run(folder, "results.py", "--config-dir", "mine", "game=toy")


def test_a_toy_game_has_a_table_with_a_claim(folder: Path) -> None:
    """A column takes heading, digits and scale from the metric; a claim needs no part where there is but one."""
    out = run(folder, "tables.py", "--config-dir", "mine", "table=toys", "output=toys")
    assert "hits (%)" in out
    table = read(folder / "toys" / "table.json")
    assert [(row["row"], row["part"]) for row in table["rows"]] == [("nothing", "all"), ("zero", "all")]
    nothing, zero = (row["values"] for row in table["rows"])
    assert nothing["hits"]["mean"] == 0.0 < zero["hits"]["mean"]
    assert (zero["turns"]["mean"], zero["turns"]["seeds"], zero["turns"]["n"]) == (20.0, 2, 2)
    [claim] = table["claims"]
    assert claim["effect"] == pytest.approx(zero["hits"]["mean"])
    assert claim["detail"].startswith("hits of zero, > hits of nothing")


HELP = subprocess.run(
    [sys.executable, str(ROOT / "experiments" / "report.py"), "--help"], capture_output=True, text=True, check=True
).stdout


@pytest.mark.skipif("--config-dir" not in HELP, reason="report.py cannot be told of folders with games")
def test_a_toy_game_is_in_the_report(folder: Path) -> None:
    run(folder, "run.py", "--config-dir", "mine", "attack=constant", *SMALL)
    run(folder, "report.py", "--config-dir", "mine", "game=toy", "--output", "toys.html")
    page = (folder / "toys.html").read_text(encoding="utf-8")
    assert "hits" in page
    assert "constant" in page
