"""Building a game's parts: validation, pairing, and what determines a key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.digits import Digits
from data.errors import UserError
from experiments.play.settings import Stream, Targets, pool_size, settings_from
from experiments.play.setup import check_pairing, prepare
from experiments.storage.identity import fingerprint
from tests.experiments.games import config


def test_settings_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"targets\.count"):
        settings_from(config(tmp_path) | {"targets": {"count": 0}})
    with pytest.raises(UserError, match="seed"):
        settings_from(config(tmp_path) | {"seed": -1})


def test_targets_directions() -> None:
    assert Targets().directions == ("over", "under")
    assert Targets(direction="under").directions == ("under",)
    with pytest.raises(ValueError, match="empty band"):
        Targets(over=(0.6, 0.6))


def test_stream_defaults_mix_three_benign() -> None:
    assert Stream().benign_per_malicious == 3


def test_pool_size() -> None:
    attack, stream = SimpleNamespace(owned=0.25, pool=None), Stream(reserved=0.2)
    assert pool_size(attack, stream, 1000) == 250  # type: ignore[arg-type]
    attack.pool = 100
    assert pool_size(attack, stream, 1000) == 100  # type: ignore[arg-type]
    attack.pool = 900
    assert pool_size(attack, stream, 1000) == 250  # type: ignore[arg-type]
    attack.owned = 1.0
    assert pool_size(attack, stream, 1000) == 800  # type: ignore[arg-type]


def test_attack_and_defense_play_one_game() -> None:
    requester = SimpleNamespace(game="request", name="uncertainty")
    verification = SimpleNamespace(game="verification", name="backdoor")
    anything = SimpleNamespace(game="any", name="none")
    check_pairing(requester, requester, {})
    check_pairing(requester, anything, {})
    check_pairing(anything, verification, {})
    with pytest.raises(UserError, match="request game"):
        check_pairing(requester, verification, {})


def test_a_white_box_that_needs_no_gradient_plays_every_procedure(tmp_path: Path) -> None:
    features = ("attack=nearest", "attack.space=features")
    assert prepare(config(tmp_path, "unlearning=fine_tune", *features)).attack.access == "white_box"
    with pytest.raises(UserError, match="FineTune has none"):
        prepare(config(tmp_path, "unlearning=fine_tune", "attack=one_shot_influence"))


def test_keys_follow_what_matters_and_nothing_else(tmp_path: Path) -> None:
    first = prepare(config(tmp_path))
    moved = prepare(config(tmp_path, "wandb.project=other", "seed=3", f"store.dir={tmp_path}/other"))
    assert first.game_key() == moved.game_key()
    for change in ("attack.budget=5", "defense.rate=0.1", "training.epochs=3", "game.targets.count=3", "data.split_seed=1"):
        assert prepare(config(tmp_path, change)).game_key() != first.game_key(), change
    attack_only = prepare(config(tmp_path, "attack=random"))
    assert attack_only.victim_key() == first.victim_key()  # victims are shared by games


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
