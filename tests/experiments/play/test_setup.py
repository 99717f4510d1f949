"""Building a game's parts: validation, pairing, and what determines a key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.digits import Digits
from data.errors import UserError
from experiments.cli.roles import known_games
from experiments.play.identity import fingerprint
from experiments.play.settings import settings_from
from experiments.play.setup import check_pairing, prepare
from games.game import Game
from tests.experiments.games import config


class Verification(Game):
    """A game that is not ours."""

    name = "verification"


def test_settings_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"game\.targets\.count"):
        prepare(config(tmp_path, "game.targets.count=0"))
    with pytest.raises(UserError, match="seed"):
        settings_from(config(tmp_path) | {"seed": -1})


def test_attack_and_defense_play_the_game() -> None:
    request = known_games()["request"]
    requester, anything = ({"_target_": f"attacks.requester.{name}"} for name in ("random.Random", "none.NoAttack"))
    influence, nothing = (
        {"_target_": f"defenses.filters.{name}"} for name in ("influence.Influence", "none.NoDefense")
    )
    other = {"_target_": "tests.experiments.other_game.Verification"}
    for attack in (requester, anything):
        for defense in (influence, nothing):
            check_pairing(request, {"attack": attack, "defense": defense})
        said = r"plays the verification game, and this is the request game; choose .*: defense=chain or .*similarity\.$"
        with pytest.raises(UserError, match=said):
            check_pairing(request, {"attack": attack, "defense": other})
    check_pairing(Verification(), {"attack": anything, "defense": other})
    said = r"plays the request game, and this is the verification game; choose .*: defense=.* or none or .*\.$"
    with pytest.raises(UserError, match=said):
        check_pairing(Verification(), {"attack": anything, "defense": influence})


def test_a_white_box_that_needs_no_gradient_plays_every_procedure(tmp_path: Path) -> None:
    features = ("attack=nearest", "attack.space=features")
    assert prepare(config(tmp_path, "unlearning=fine_tune", *features)).attack.access == "white_box"
    with pytest.raises(UserError, match="FineTune has none"):
        prepare(config(tmp_path, "unlearning=fine_tune", "attack=one_shot_influence"))


def test_keys_follow_what_matters_and_nothing_else(tmp_path: Path) -> None:
    first = prepare(config(tmp_path))
    moved = prepare(config(tmp_path, "wandb.project=other", "seed=3", f"store.dir={tmp_path}/other"))
    assert first.keys.game() == moved.keys.game()
    for change in (
        "attack.budget=5",
        "defense.rate=0.1",
        "training.epochs=3",
        "game.targets.count=3",
        "data.split_seed=1",
    ):
        assert prepare(config(tmp_path, change)).keys.game() != first.keys.game(), change
    attack_only = prepare(config(tmp_path, "attack=random"))
    assert attack_only.keys.victim() == first.keys.victim()  # victims are shared by games


def test_fingerprint_sees_every_part() -> None:
    data = Digits().load()
    assert fingerprint(data) == fingerprint(Digits().load())
    for part in ("train", "test", "trusted", "auxiliary"):
        examples = getattr(data, part)
        x = examples.x.clone()
        x[-1].flatten()[0] += 1e-3
        assert fingerprint(replace(data, **{part: replace(examples, x=x)})) != fingerprint(data)
        y = examples.y.roll(1)
        assert not torch.equal(y, examples.y)
        assert fingerprint(replace(data, **{part: replace(examples, y=y)})) != fingerprint(data)
