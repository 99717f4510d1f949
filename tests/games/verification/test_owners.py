"""Who owns what: records that are handed in, and records that are held back for the comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import UserError
from experiments.play.setup import prepare
from games.verification.owners import brought
from tests.games.verification.small import config, play

MEMBERSHIP = ("attack=none", "game=verification", "defense=membership_inference")


def rows(examples) -> set[bytes]:
    return {row.numpy().tobytes() for row in examples.x}


def test_records_held_back_leave_the_training_set(tmp_path):
    """They stand where the trusted examples stood; the users own the same records as without."""
    without = prepare(config(tmp_path, *MEMBERSHIP, "game.held_back=0"))
    data, users = brought(prepare(config(tmp_path, *MEMBERSHIP, "game.held_back=7")), 3)
    plain, same = brought(without, 3)
    assert plain is without.data
    assert (len(data.train), len(data.trusted)) == (300 - 21, 21)
    assert torch.equal(data.test.x, plain.test.x)
    owned = torch.cat(users)
    assert len(set(owned.tolist())) == 30
    whole = torch.cat([data.train.x, data.trusted.x])
    assert sorted(row.numpy().tobytes() for row in whole) == sorted(row.numpy().tobytes() for row in plain.train.x)
    for mine, before in zip(users, same, strict=True):
        assert torch.equal(data.train.x[mine], plain.train.x[before])
        assert torch.equal(data.train.y[mine], plain.train.y[before])
    assert not rows(data.trusted) & rows(data.train)


def test_only_verifications_that_compare_with_them_hold_records_back(tmp_path):
    setup = prepare(config(tmp_path, "attack=none", "game=verification", "defense=backdoor_verification"))
    assert brought(setup, 0)[0] is setup.data


def test_every_seed_holds_back_others(tmp_path):
    setup = prepare(config(tmp_path, *MEMBERSHIP))
    first, second = (rows(brought(setup, seed)[0].trusted) for seed in (0, 1))
    assert first != second


def test_records_held_back_are_in_the_key_of_the_victim(tmp_path):
    """Else a victim that learned them would be taken from the store."""
    counts = []
    for held in (10, 11, 10):
        record = play(tmp_path, *MEMBERSHIP, f"game.held_back={held}")
        assert record["held_back"] == 3 * held
        counts.append(len(list((tmp_path / "store" / "victim").rglob("*.safetensors"))))
    assert counts == [1, 2, 2]


def test_another_population_accuses_the_honest_and_records_held_back_do_not(tmp_path: Path):
    """A test file with a third of its labels wrong: naive comparison finds the deleted records too well known."""
    rng = np.random.default_rng(0)
    y, y_test = rng.integers(0, 2, 1200), rng.integers(0, 2, 900)
    x, x_test = (rng.normal(size=(len(of), 5)) + 3 * of[:, None] for of in (y, y_test))
    y_test = np.where(rng.random(900) < 1 / 3, 1 - y_test, y_test)
    np.savez(tmp_path / "shifted.npz", x=x, y=y, x_test=x_test, y_test=y_test)
    words = (
        "data=arrays", f"data.path={tmp_path / 'shifted.npz'}", "training.epochs=5", "game.users=1",
        "game.records=200", "figures=false",
    )  # fmt: skip
    verdicts = {}
    for held in (0, 200):
        verdicts[held] = play(tmp_path, *MEMBERSHIP, *words, f"game.held_back={held}", small=())["verdict"]
    assert verdicts[0]["passed"] is False
    assert verdicts[200]["passed"] is True


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["game.held_back=90"], "game.records=10 and game.held_back=90 each own 300 records, and there are 300"),
        (["game.held_back=2"], "needs at least 8 trusted examples, and there are 6; raise game.held_back"),
        (["game.held_back=-1"], "game.held_back"),
    ],
)
def test_what_cannot_be_held_back_is_said(tmp_path, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        play(tmp_path, *MEMBERSHIP, *overrides)
