"""The verification game as a whole: what honest and dishonest providers get, and what stays behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from data.errors import UserError
from games.verification.game import VerificationGame
from proofs.reader import open_proof
from storage.artifact import lock
from storage.inventory import strays
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
        (["game.proof.every=50"], "game.proof.every=50 is more than the 40 steps there are"),
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


OWN = """
from data.examples import Examples
from defenses.verification.verification import Prepared, Verdict, Verification
from models.stepwise import Opening


class Base(Verification):
    name = "own"
    sees = "proof"

    def verify(self, case):
        return Verdict(passed=True, statistic=0.0, threshold=1.0, level=None, power=None, reason="Fine.")


class NoPrepared(Base):
    def prepare(self, data, users, rng):
        return data.train


class BadLabel(Base):
    def prepare(self, data, users, rng):
        y = data.train.y.clone()
        y[users[0][0]] = 99
        return Prepared(Examples(data.train.x, y))


class NoTerms(Base):
    def challenge(self, rng):
        return 7


class NoNumber(Base):
    def verify(self, case):
        return Verdict(passed=False, statistic=None, threshold=1.0, level=None, power=None, reason="What?")


class NoPlain(Base):
    def verify(self, case):
        kept = {"it": object()}
        return Verdict(passed=True, statistic=0.0, threshold=1.0, level=None, power=None, reason="Fine.", details=kept)


class Secretive:
    game = "verification"

    def prepare(self, data, users, rng):
        return Prepared(data.train, secret=3)

    def verify(self, case):
        assert case.secret == 3
        return Verdict(passed=True, statistic=0.0, threshold=1.0, level=None, power=None, reason="It knows.")


class Hasty:
    game = "verification"

    def pretend(self, demand):
        demand.recorder.step(None, 0.1, None)


class TooMany:
    game = "verification"

    def pretend(self, demand):
        from attacks.provider.honest import forget_honestly
        from dataclasses import replace
        kept = demand.recorder
        begin = kept.begin
        kept.begin = lambda opening, state: begin(replace(opening, steps=3), state)
        return forget_honestly(demand)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_verification.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("NoPrepared", r"prepare\(\) must give a Prepared"),
        ("BadLabel", "hands in a label outside 0 to 9"),
        ("NoTerms", r"challenge\(\) must give Terms"),
        ("NoNumber", "the statistic of a verdict is a number"),
        ("NoPlain", "details of a verdict must be plain numbers"),
    ],
)
def test_own_verifications_are_told_what_they_must_give(own, name, sentence):
    with pytest.raises(UserError, match=sentence):
        play(own, "attack=none", "game=verification", "defense=none", f"defense._target_=own_verification.{name}")


def test_own_parts_need_not_derive_from_ours(own):
    words = ("attack=none", "game=verification", "defense=none", "defense._target_=own_verification.Secretive")
    record = play(own, *words)
    assert record["verdict"]["reason"] == "It knows."


def test_what_a_provider_hands_over_is_its_own_doing(own):
    """A proof that cannot be read accuses it; to write steps before the beginning is a mistake of its code."""
    record = play(own, "attack=do_nothing", "attack._target_=own_verification.TooMany")
    assert record["verdict"]["passed"] is False
    assert "the header announces 3 steps" in record["verdict"]["reason"]
    with pytest.raises(UserError, match="A proof begins with begin"):
        play(own, "attack=do_nothing", "attack._target_=own_verification.Hasty")


def test_a_committee_forgets_honestly_or_not_at_all(folder):
    record = play(folder, "attack=none", "game=verification", "unlearning=sisa", "defense=none")
    assert "distance_to_naive" not in record["worth"]["released"]
    assert record["cost"]["provider_gradients"] is None  # nobody counts them
    with pytest.raises(UserError, match="releases one plain model, and that of unlearning=sisa"):
        play(folder, "attack=spoofing", "unlearning=sisa")


def test_newtons_method_plays_where_no_proof_is_asked_for(folder):
    small = ("attack=none", "game=verification", "training=newton", "model=logistic")
    assert play(folder, *small, "defense=none")["verdict"]["passed"] is True


def test_the_released_model_of_a_log_depends_on_its_checkpoints(folder):
    """One kept for another distance of checkpoints would be another model."""
    one, three = (play(folder, "attack=forging", "defense=none", f"game.proof.every={k}") for k in (1, 3))
    assert one["worth"]["released"]["distance_to_original"] < three["worth"]["released"]["distance_to_original"]


def test_what_killed_games_left_is_pruned_and_what_is_kept_is_not(tmp_path):
    record = play(tmp_path, "attack=do_nothing", "game.proof.keep=true")
    left = tmp_path / "store" / "proofs" / "forging-reproducing-0-0123456789abcdef"
    (left / "proof").mkdir(parents=True)
    (left / "proof" / "shard-00000.bin").write_bytes(bytes(1000))
    assert strays(tmp_path / "store", dry_run=True)[1] >= 1000
    assert left.exists()
    with lock(left):
        strays(tmp_path / "store")
        assert left.exists()  # somebody plays it now
    strays(tmp_path / "store")
    assert not left.exists()
    assert open_proof(Path(record["proof"]["folder"])).complete


def test_the_proof_of_a_served_game_may_be_gone(tmp_path):
    words = ("attack=do_nothing", "game.proof.keep=true", *SMALL, "store.dir=store")
    first = run(*words, "hydra.run.dir=one", cwd=tmp_path)
    [place] = re.findall(r"Proof of seed 0: (\S+)", first.stdout)
    assert Path(place).is_absolute()
    shutil.rmtree(place)
    assert "(removed since)" in run(*words, "hydra.run.dir=two", cwd=tmp_path).stdout
