"""The figures of the verification game: which a record supports, and what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from games.verification.game import VerificationGame
from tests.games.verification.small import play


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return play(tmp_path_factory.mktemp("figures"), "attack=do_nothing")


def drawn(*records: dict[str, Any]) -> dict[str, Any]:
    return {each.name: each for each in VerificationGame().figures(records, None)}


def test_a_replayed_proof_has_errors_accuracies_and_cost(record):
    found = drawn(record)
    assert list(found) == ["errors", "accuracies", "cost"]
    assert all(each.caption.endswith(".") and each.alt for each in found.values())
    assert "before deletion: test" in found["accuracies"].alt
    axis = found["errors"].figure.axes[0]
    assert axis.get_xscale() == "log"
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert "do nothing (100% of steps exact)" in labels
    assert "tolerance" in labels


def test_the_bars_are_the_accuracies(record):
    bars = drawn(record)["accuracies"].figure.axes[0].patches
    heights = [bar.get_height() for bar in bars]
    worth = record["worth"]
    assert heights == [
        pytest.approx(worth[model][place]["accuracy"])
        for model in ("released", "original", "naive")
        for place in ("test", "deleted", "retained")
    ]


def test_hit_rates_are_drawn_by_user(record):
    details = {"hit_rate": [0.1, 0.0], "p": [0.9, 0.8], "threshold_rate": 0.3}
    verdict = {**record["verdict"], "details": details, "statistic": 3.0, "threshold": 6.0}
    found = drawn({**record, "verdict": verdict, "errors": None})
    assert list(found) == ["hits", "accuracies", "cost"]
    lines = {line.get_label(): list(line.get_ydata()) for line in found["hits"].figure.axes[0].lines}
    assert lines["after"] == [0.1, 0.0]
    assert lines["before deletion"] == [0.9, 0.8]
    assert lines["threshold, alone"] == [0.3, 0.3]
    points = {line.get_label(): list(line.get_ydata()) for line in found["cost"].figure.axes[0].lines}
    assert points["do nothing"] == [0.5]  # the statistic over its threshold


def test_they_are_written_with_a_game(tmp_path: Path):
    play(tmp_path, "attack=none", "game=verification", "figures=true")
    folder = tmp_path / "run" / "figures"
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{kind}" for name in ("errors", "accuracies", "cost") for kind in ("png", "pdf")
    }
