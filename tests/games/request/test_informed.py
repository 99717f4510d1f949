"""Adaptive attackers in whole games: what is refused before, what is asked of the provider, and what a record says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.adaptive.calibration_poisoning import CalibrationPoisoning
from attacks.adaptive.splitting import Splitting
from data.errors import UserError
from experiments.play.setup import prepare
from games.game import Setup
from games.request.play import play_one
from games.request.table import _adaptive
from games.request.targets import choose_attacker, choose_targets
from games.request.traffic import Traffic, together, traffic
from tests.experiments.games import config


def made(folder: Path, strategy: str, *more: str) -> Setup[Any]:
    words = ("model=logistic", "attack.access=white_box", *more)  # what chooses an attack comes first
    return prepare(
        config(folder, *sorted(words, key=lambda w: not w.startswith("attack=")), f"attack/adaptive={strategy}")
    )


@pytest.mark.parametrize(
    ("strategy", "more", "said"),
    [
        ("auto", ["defense=none"], "auto plays against a filter, and defense=none accepts everything"),
        ("splitting", ["defense=none"], "choose a filter, as in defense=influence"),
        ("score_penalty", ["attack.owned=0.05"], "trial streams of 24 records from the attacker's pool of 15"),
        ("splitting", ["attack.adaptive.parts=50"], "needs 50 streams of 24 records"),
        ("calibration_poisoning", ["attack.pool=7"], "sets 2 of the attacker's 7 records aside"),
        ("aligned_copies", ["game.service.record=own"], "sends copies, and this server looks at none"),
    ],
)
def test_what_cannot_be_played_is_one_sentence(tmp_path: Path, strategy: str, more: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        made(tmp_path, strategy, *more)


def test_copies_of_the_attacks_own_are_not_split_or_aligned(tmp_path: Path) -> None:
    own = ("attack=misclassification", "unlearning=first_order", "attack.copies.radius=0.1")
    for strategy in ("splitting", "aligned_copies"):
        with pytest.raises(UserError, match=r"set attack\.copies\.radius=0"):
            made(tmp_path, strategy, *own)


def asked(setup: Setup[Any], strategy: Any) -> Traffic:
    victim, test = setup.victim(0), setup.data.test
    chosen = choose_targets(setup.game.targets, victim.probabilities(test.x), test.x, 0)
    pool = strategy_pool(setup)
    return traffic(setup, 0, chosen, [pool[:6]] * len(chosen.goals), [victim], strategy)


def strategy_pool(setup: Setup[Any]) -> torch.Tensor:
    return choose_attacker(setup, 0).pool.cpu()


def test_a_split_request_has_a_full_stream_for_every_part(tmp_path: Path) -> None:
    setup = made(tmp_path, "splitting", "game.targets.count=1")
    found = asked(setup, Splitting())
    assert found.parts == 3
    assert len(found.streams) == len(found.random_streams) == 3 * len(found.requests)
    for first in range(0, len(found.streams), 3):
        mine = found.streams[first : first + 3]
        assert [len(stream.positions) for stream in mine] == [24, 24, 24]
        assert [int(stream.malicious.sum()) for stream in mine] == [2, 2, 2]
        named = torch.cat([stream.positions[stream.malicious] for stream in mine])
        assert set(named.tolist()) == set(found.requests[first // 3].tolist())
        assert len(torch.cat([stream.positions for stream in mine]).unique()) == 72
    whole = together([stream.positions for stream in found.streams], 3)
    assert [len(each) for each in whole] == [72] * len(found.requests)


def test_poison_is_in_every_calibration_batch_and_in_nothing_else(tmp_path: Path) -> None:
    setup = made(tmp_path, "calibration_poisoning", "game.targets.count=1")
    found = asked(setup, CalibrationPoisoning())
    assert len(found.poison) == 2
    assert all(len(batch.unique()) == 24 and torch.isin(found.poison, batch).all() for batch in found.calibration)
    live = [
        *(s.positions for s in found.streams),
        *found.random,
        *(b for group in found.benign.values() for b in group),
    ]
    others = torch.cat(live).tolist()
    allowed = set(found.requests[0].tolist())
    assert not set(found.poison.tolist()) & (set(others) - allowed)


def test_a_game_whose_attacker_chooses_says_what(tmp_path: Path) -> None:
    """Digits, logistic regression, few targets: the record, its line, and that crafting is kept by the defense."""
    less = ("game.targets.count=1", "judge=quick", "game.targets.far=0.5")
    setup = made(tmp_path, "auto", *less)
    record = play_one(setup, 0)
    said = record["adaptive"]
    assert said["asked"] == "auto"
    assert said["played"] == next(iter(said["tried"]))
    assert said["tried"][said["played"]] == max(said["tried"].values())
    assert set(said["tried"]) >= {"none", "norm_cap", "score_penalty", "dilution"}
    assert len(record["targets"]["far"]) == len(record["targets"]["position"])
    line = _adaptive([record])
    assert line is not None
    assert line.startswith(f"Adaptive attacker: {said['played']}; attained after the filter in trials of its own: ")
    again = play_one(setup, 0)  # from the store
    assert again["requests"] == record["requests"]
    assert again["adaptive"] == said
    assert again["operator_calls"] == record["operator_calls"]
    other = made(tmp_path, "auto", *less, "defense=norm")
    places = ("attack", "unlearning", "defense", "game.stream")
    assert setup.keys.of(*places) != other.keys.of(*places)
