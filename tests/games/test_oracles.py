"""Retrained models and margins are computed once, whoever asks, and are bit by bit what they would be anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import games.oracles
import games.request.play
from experiments.play.play import play_config
from experiments.play.setup import prepare
from games.game import Setup
from games.oracles import kept_margins, oracles
from metrics.margins import margins
from tests.experiments.games import config
from tests.experiments.small_sweeps import TINY
from unlearning.retrain import Retrain


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of every model that is retrained for the store."""
    seen: list[int] = []
    original = games.oracles.train

    def counting(*arguments: Any, **options: Any) -> Any:
        seen.extend(arguments[3])
        return original(*arguments, **options)

    monkeypatch.setattr(games.oracles, "train", counting)
    return seen


def setup_of(folder: Path, *overrides: str) -> Setup[Any]:
    return prepare(config(folder, *TINY, "attack=random", *overrides))


def without(setup: Setup[Any], *rows: tuple[int, ...]) -> torch.Tensor:
    weights = torch.zeros(len(rows), len(setup.task.records))
    for weight, row in zip(weights, rows, strict=True):
        weight[list(row)] = 1
    return weights


def test_they_are_retrained_once_for_all_procedures(tmp_path: Path, trained: list[int]) -> None:
    first, second = setup_of(tmp_path), setup_of(tmp_path, "unlearning=gradient_ascent")
    weights = without(first, (1, 2), (7,))
    made, again = oracles(first, weights, 0), oracles(second, weights, 0)
    assert trained == [0, 0]
    victim = Retrain().learn(first.task, 0)
    assert torch.equal(made.flat(), Retrain().forget(first.task, victim, weights, 0).flat())
    assert torch.equal(made.flat(), again.flat())
    assert torch.equal(made.logits(first.data.test.x), again.logits(first.data.test.x))


def test_whatever_is_asked_differently_is_trained(tmp_path: Path, trained: list[int]) -> None:
    setup = setup_of(tmp_path)
    weights = without(setup, (1, 2), (7,))
    oracles(setup, weights, 0)
    oracles(setup, weights, 1)
    oracles(setup, weights.flip(0), 0)  # what is trained together may differ in the last bits
    oracles(setup, weights[:1], 0)
    oracles(setup_of(tmp_path, "training.epochs=11"), weights, 0)
    oracles(setup_of(tmp_path, "data.train=299"), without(setup, (1, 2), (7,))[:, :299], 0)
    assert trained == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_quick_ones_leave_nothing(tmp_path: Path, trained: list[int]) -> None:
    setup = setup_of(tmp_path)
    for _ in range(2):
        oracles(setup, without(setup, (3,)), 0, slow=60.0)
    assert trained == [0, 0]
    assert not list((tmp_path / "store").glob("oracle/??/*"))


def test_margins_are_kept_by_the_order_of_the_rows(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    models, points, asked = oracles(setup, without(setup, (1,), (2,)), 0), setup.data.test, []

    def of(rows: Any, which: str) -> torch.Tensor:
        def logits() -> torch.Tensor:
            asked.append(which)
            return models.logits(points[rows].x)

        return kept_margins(setup, {"models": which}, points[rows], logits)

    forth, back = torch.arange(5), torch.arange(5).flip(0)
    found = of(forth, "a")
    assert torch.equal(found, margins(models.logits(points[forth].x), points[forth].y))
    assert found.dtype == torch.float32
    assert torch.equal(of(forth, "a"), found)
    torch.testing.assert_close(of(back, "a"), found.flip(1))
    of(forth, "b")
    assert asked == ["a", "a", "b"]


def test_a_game_takes_what_another_procedures_game_retrained(
    tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attacker asks alike whatever the procedure, and the numbers are those of a game that retrains itself."""
    monkeypatch.setattr(games.request.play, "SLOW", 0.0)
    options = ("attack=random", "figures=false")
    play_config(config(tmp_path, *TINY, *options, "unlearning=first_order"), tmp_path / "out")
    whole = len(trained)
    assert whole > 0
    served = play_config(config(tmp_path, *TINY, *options, "unlearning=gradient_ascent"), tmp_path / "out")
    assert len(trained) < 2 * whole
    alone = play_config(config(tmp_path / "alone", *TINY, *options, "unlearning=gradient_ascent"), tmp_path / "out")
    assert served["games"][0]["victim_seed"] == alone["games"][0]["victim_seed"]
    assert served["games"][0]["in_sequence"] == alone["games"][0]["in_sequence"]
