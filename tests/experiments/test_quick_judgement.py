"""judge=quick: what costs most is left out, of the record and of the table, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.cli.roles import known_games
from experiments.listing.row import rows
from experiments.play.play import play_config, show
from experiments.play.setup import prepare
from tests.experiments.games import config

REQUEST = known_games()["request"]
COMPARED = {"distance", "relative_distance", "prediction_distance", "disagreement"}
SMALL = ("attack=random", "unlearning=fine_tune", "unlearning.epochs=1", "training.epochs=3", "figures=false",
         "game.targets.over=[0.05,0.97]", "game.targets.under=[0.06,0.98]", "defense=none")  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("judged")
    full, quick = (play_config(config(folder, *SMALL, f"judge={each}"), folder / each) for each in ("full", "quick"))
    assert (full["meta"]["served"], quick["meta"]["served"]) == ([False], [False])  # one is not served for the other
    return full, quick


def test_what_is_left_out_is_said_and_not_there(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    full, quick = (each["games"][0] for each in pair)
    assert full["left_out"] == []
    assert quick["left_out"] == ["the distance to retraining", "a request in two halves", "fresh seeds"]
    assert quick["fresh_seeds"] is None
    assert quick["in_sequence"] == {}
    assert "retrain_one" not in quick["seconds"]
    for state in ("after", "random"):
        left = set(full["victim_seed"][state]["models"]) - set(quick["victim_seed"][state]["models"])
        assert left == COMPARED


def test_everything_else_is_the_same(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    full, quick = (each["games"][0] for each in pair)
    assert quick["requests"] == full["requests"]
    for state in ("before", "after", "random", "stream", "defended", "benign"):
        assert quick["victim_seed"][state]["confidence"] == full["victim_seed"][state]["confidence"]
        for metric, values in quick["victim_seed"][state]["models"].items():
            assert values == full["victim_seed"][state]["models"][metric]


def test_the_table_has_no_row_for_it_and_says_so(
    pair: tuple[dict[str, Any], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    full, quick = pair
    show(REQUEST, full)
    assert "dist. to retraining" in capsys.readouterr().out
    show(REQUEST, quick)
    text = capsys.readouterr().out
    assert "dist. to retraining" not in text
    assert "apart" not in text
    assert "fresh seeds*" not in text
    assert "draws nothing" not in text
    assert "Left out with judge=quick: the distance to retraining, a request in two halves, fresh seeds." in text


def test_a_row_of_a_quick_game_has_no_numbers_for_it(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    [row, _] = rows(REQUEST, pair[1]["games"][0])
    assert row["judge"] == "quick"
    assert row["relative_distance_in_sequence"] is None
    assert row["relative_distance_after"] is None


def test_where_nothing_is_quarantined_the_defense_changes_nothing(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    states = pair[0]["games"][0]["victim_seed"]
    assert states["defended"] == states["processed"] == states["stream"]


def test_full_is_what_nobody_asks_for_and_another_game(tmp_path: Path) -> None:
    full, quick = (prepare(config(tmp_path, *words)) for words in ((), ("judge=quick",)))
    assert (full.judge, quick.judge) == ("full", "quick")
    assert full.keys.game() != quick.keys.game()
    assert full.keys.victim() == quick.keys.victim()
