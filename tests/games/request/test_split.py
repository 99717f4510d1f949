"""Requests that are split beside an attacker that does not know of the filter: what adaptive splitting plays itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.adaptive.none import strategy_of
from defenses.defense import Context
from experiments.play.setup import prepare
from games.game import metric_of
from games.request.game import RequestGame
from games.request.informed import informed
from games.request.play import play_one
from games.request.split import split_requests
from games.request.summary import summarise
from games.request.table import _adaptive, _split
from games.request.traffic import random_controls
from games.request.words import SPLIT, UNAWARE
from models.victim import Victim
from tests.experiments.games import config
from unlearning.procedure import unlearned
from unlearning.service import OpenService

SMALL = ("model=logistic", "attack.access=white_box", "defense=influence", "judge=quick", "training.epochs=10")


@cache
def played(*more: str) -> dict[str, Any]:
    """The record of a game; what chooses an attack comes first."""
    words = sorted(("attack=one_shot_influence", *SMALL, *more), key=lambda word: not word.startswith("attack="))
    cfg = config(Path(mkdtemp()), *words)
    return {**play_one(prepare(cfg), 0), "config": cfg}


def test_it_is_what_the_filter_makes_of_every_stream_with_the_model_as_it_was() -> None:
    """Against reviews written out: one candidate a stream, the threshold of the game, the union of what is accepted."""
    record = played()
    beside, setup = record["detection"]["split"], prepare(record["config"])
    task, defense, procedure = setup.task, setup.defense, setup.procedure
    victim = procedure.learn(task, 0)
    requests = [torch.tensor(each["indices"]) for each in record["requests"]]
    service, strategy = OpenService(task, procedure, (victim,), (0,)), strategy_of(setup.attack)
    controls = random_controls(setup, 0, requests, informed(setup, 0, service, ()), service, strategy)
    asked = split_requests(setup, 0, requests, controls, copies=False)
    assert asked is not None
    assert beside["parts"] == asked.parts == 3

    def after(positions: Tensor) -> Victim:
        deleted = torch.zeros(1, len(task.records))
        deleted[0, positions] = 1
        return unlearned(procedure, task, victim, deleted, 0)[0]

    confidence, hits = [], 0
    for number, position in enumerate(record["targets"]["position"]):
        left = []
        for stream in asked.streams[3 * number : 3 * number + 3]:
            threshold = record["detection"]["threshold"]
            context = Context(task, victim, after(stream.positions), setup.data.filter_trusted, threshold=threshold)
            accepted = defense.review(context, stream.positions).accepted
            hits += int((~accepted & stream.malicious).sum())
            left.append(stream.positions[accepted])
        logits = after(torch.cat(left)).logits(setup.data.test.x[position][None])
        confidence.append(float(logits.softmax(-1).max()))
    assert beside["attack"]["confidence"] == pytest.approx(confidence, abs=1e-5)
    counts = [beside[direction] for direction in ("over", "under")]
    caught = sum(each["caught"]["value"] * each["malicious"] for each in counts)
    assert caught == pytest.approx(hits, abs=1e-9)
    assert sum(each["malicious"] for each in counts) == sum(map(len, requests))


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
