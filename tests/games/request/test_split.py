"""Requests that are split beside an attacker that does not know of the filter: what adaptive splitting plays itself."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from experiments.play.setup import prepare
from games.game import metric_of
from games.request.game import RequestGame
from games.request.play import play_one
from games.request.summary import summarise
from games.request.table import SPLIT, UNAWARE, _adaptive, _split
from tests.experiments.games import config

SMALL = ("model=logistic", "attack.access=white_box", "defense=influence", "judge=quick", "training.epochs=10")


@cache
def played(*more: str) -> dict[str, Any]:
    """The record of a game; what chooses an attack comes first."""
    words = sorted(("attack=one_shot_influence", *SMALL, *more), key=lambda word: not word.startswith("attack="))
    cfg = config(Path(mkdtemp()), *words)
    return {**play_one(prepare(cfg), 0), "config": cfg}


def test_it_is_what_adaptive_splitting_plays() -> None:
    """The same requests, streams, calibration and controls, so the same numbers to the last digit."""
    beside = played()["detection"]["split"]
    adaptive = played("attack/adaptive=splitting")
    assert beside["parts"] == 3
    assert beside["attack"] == {key: adaptive["victim_seed"]["defended"][key] for key in beside["attack"]}
    assert beside["random"] == {key: adaptive["victim_seed"]["defended_random"][key] for key in beside["random"]}
    for direction in ("over", "under"):
        there = adaptive["detection"][direction]
        assert json.dumps(beside[direction]["decision"]) == json.dumps(there["decision"])  # NaN, where it is, too
        assert beside[direction]["caught"] == there["caught"]
        assert beside[direction]["streams"] == there["streams"] > played()["detection"][direction]["streams"]


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ((), 3),
        (("game.stream.split=2",), 2),
        (("game.stream.split=50",), 9),  # (240 - 6) // 24
        (("game.stream.split=null",), None),
        (("game.stream.reserved=0.84",), None),  # 48 records are free, and two streams with a control need 54
        (("attack/adaptive=norm_cap",), None),
        (("defense=none",), None),
        (
            (
                "attack=misclassification",
                "attack.steps=1",
                "attack.copies.radius=0.1",
                "attack.copies.steps=1",
                "unlearning=first_order",
            ),
            None,
        ),
    ],
)
def test_it_is_played_where_there_is_something_to_split(more: tuple[str, ...], parts: int | None) -> None:
    found = played("game.targets.direction=over", *more)["detection"]["split"]
    assert (None if found is None else found["parts"]) == parts


def test_table_and_metrics_say_what_it_attained() -> None:
    record, game = played(), RequestGame()
    summary, beside = summarise([record], ["over", "under"]), record["detection"]["split"]
    assert _adaptive([record]) == SPLIT
    for part in game.parts(record):
        mine = [i for i, each in enumerate(record["targets"]["direction"]) if each == part.name]
        success = sum(beside["attack"]["success"][i] for i in mine) / len(mine)
        gained = [beside["attack"]["attained"][i] - beside["random"]["attained"][i] for i in mine]
        found = {name: metric_of(game, name).values(part) for name in ("success_split", "effect_split", "auroc_split")}
        assert sum(found["success_split"].values()) / len(mine) == pytest.approx(success)
        assert list(found["effect_split"].values()) == pytest.approx(gained)
        assert list(found["auroc_split"].values()) == [beside[part.name]["decision"]["auroc"]["value"]]
        own = summary[part.name]["split"]
        assert own["success"]["mean"] == pytest.approx(success)
        assert own["effect"]["mean"] == pytest.approx(sum(gained) / len(mine))
        assert _split(own).startswith(f"Split over 3 streams each, through the filter: success {100 * success:.0f}")


def test_without_it_the_table_says_that_the_attacker_does_not_know() -> None:
    record = played("game.targets.direction=over", "game.stream.split=null")
    assert _adaptive([record]) == UNAWARE
    [part] = RequestGame().parts(record)
    assert summarise([record], ["over"])["over"]["split"] is None
    assert not any(metric.values(part) for metric in RequestGame().metrics() if metric.name.endswith("_split"))
