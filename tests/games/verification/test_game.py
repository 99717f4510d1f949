"""The verification game as a whole: what honest and dishonest providers get, and what stays behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.errors import UserError
from games.verification.game import VerificationGame
from proofs.reader import open_proof
from tests.experiments.games import run
from tests.games.verification.small import SMALL, play


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verification")


@pytest.fixture(scope="module")
def honest(folder):
    return play(folder, "attack=none", "game=verification")


@pytest.fixture(scope="module")
def lazy(folder):
    return play(folder, "attack=do_nothing")


def test_an_honest_provider_is_believed(honest):
    """Its replay is exact, and it differs from naive retraining by the order of the records alone."""
    assert honest["honest"] is True
    assert honest["verdict"]["passed"] is True
    assert honest["errors"]["all"]["zero"] == 1.0
    assert 0 < honest["worth"]["released"]["distance_to_naive"] < 1
    assert honest["worth"]["equal"] == honest["worth"]["naive"]
    assert honest["cost"]["equal_updates"] == 40
    assert honest["cost"]["provider_gradients"] == honest["cost"]["naive_gradients"] == 20 * 200
    assert honest["cost"]["provider_updates"] == honest["proof"]["steps"] == 40


def test_a_provider_that_does_nothing_is_caught_by_its_own_log(lazy):
    assert lazy["honest"] is False
    assert lazy["verdict"]["passed"] is False
    assert "step 1" in lazy["verdict"]["reason"]
    assert lazy["worth"]["released"]["deleted"] == lazy["worth"]["original"]["deleted"]
    assert lazy["worth"]["released"]["distance_to_original"] == 0.0
    assert lazy["cost"]["provider_gradients"] == 0


def test_the_metrics_are_what_the_record_says(honest, lazy):
    game = VerificationGame()
    [part] = game.parts(lazy)
    values = {metric.name: metric.values(part) for metric in game.metrics()}
    assert values["passes"] == {"all": 0.0}
    worth = lazy["worth"]
    assert lazy["cost"]["equal_updates"] == 60  # those of the original
    assert worth["equal"] == worth["equal_to_original"]
    kept = worth["original"]["deleted"]["accuracy"] - worth["equal"]["deleted"]["accuracy"]
    assert values["retained_information"]["all"] == pytest.approx(kept)
    assert values["relative_gradients"]["all"] == 0.0
    assert values["hit_rate"] == {}
    assert game.score([honest]) == 1.0
    assert game.score([honest, lazy]) == 0.5
    assert len({metric.name for metric in game.metrics()}) == len(game.metrics())


def test_proofs_are_gone_after_they_were_verified(folder, honest, lazy):
    assert honest["proof"]["folder"] is None
    assert honest["proof"]["bytes"] > 40 * 4 * (64 * 32 + 32 + 32 * 10 + 10)
    assert list((folder / "store" / "proofs").iterdir()) == []


def test_a_proof_is_kept_where_that_is_wanted(folder):
    record = play(folder, "attack=do_nothing", "game.proof.keep=true", "game.proof.every=7")
    proof = open_proof(Path(record["proof"]["folder"]))
    assert proof.complete
    assert proof.checkpoints() == [*range(0, 60, 7), 60]
    assert not (proof.folder.parent / "log").exists()


def test_the_same_victim_and_naive_model_serve_every_verification(folder, honest):
    """The released model too, where no proof is asked for."""
    before = {kind: len(list((folder / "store" / kind).rglob("*.safetensors"))) for kind in ("victim", "oracle")}
    record = play(folder, "attack=none", "game=verification", "defense=none")
    assert record["verdict"]["passed"] is True
    assert record["errors"] is None
    assert record["proof"] is None
    assert record["worth"]["released"] == honest["worth"]["released"]
    after = {kind: len(list((folder / "store" / kind).rglob("*.safetensors"))) for kind in ("victim", "oracle")}
    assert before == after
    assert len(list((folder / "store" / "released").rglob("*.safetensors"))) == 1


def test_fine_tuning_can_be_proved_and_other_procedures_cannot(folder):
    record = play(folder, "attack=none", "game=verification", "unlearning=fine_tune", "defense.checks=[complete]")
    assert record["verdict"]["passed"] is True
    with pytest.raises(UserError, match="unlearning=second_order writes no proof"):
        play(folder, "attack=none", "game=verification", "unlearning=second_order")
    record = play(folder, "attack=none", "game=verification", "unlearning=second_order", "defense=none")
    assert record["proof"] is None


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["game.users=30"], "each own 300 records, and there are 300; lower one of them"),
        (["training=newton", "model=logistic"], "A proof is of minibatch steps"),
        (["training.batch_size=280"], "do not fill a batch of 280"),
        (["unlearning=sisa"], "works on the log of plain training"),
        (["defense=influence"], "plays the request game, and this is the verification game"),
    ],
)
def test_what_cannot_be_played_is_said_before_anything_is_trained(folder, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        play(folder, "attack=do_nothing", *overrides)


def test_a_terminal_shows_it(folder):
    done = run("attack=do_nothing", *SMALL, "hydra.run.dir=shown", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (
        "provider do_nothing, retrain, against verification reproducing: mlp on digits, 3 users with 10" in done.stdout
    )
    assert "the provider is accused. The batch of step 1 has record" in done.stdout
    assert "kept of the deleted (points)" in done.stdout
    result = json.loads((folder / "shown" / "result.json").read_text(encoding="utf-8"))
    assert result["score"] == 0.0
