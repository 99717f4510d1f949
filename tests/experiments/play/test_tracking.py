import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import UserError
from experiments.play.tracking import _numbers, check_tracking, track

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_disabled_does_not_import_wandb_and_writes_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from experiments.play.tracking import track\n"
        f"with track('disabled', 'p', None, {{}}, Path({str(tmp_path / 'run')!r})) as it: it.log({{'a': 1}})\n"
        "print('wandb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert not (tmp_path / "run").exists()


def test_offline_writes_a_run_with_config_numbers_and_figures(tmp_path, monkeypatch):
    from PIL import Image

    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    picture = tmp_path / "roc.png"
    Image.new("RGB", (4, 4)).save(picture)
    config = {"seed": 3, "attack": {"budget": 20}}
    with track("offline", "games", "night", config, tmp_path / "run") as tracker:
        tracker.log({"score": 0.5, "filter": {"auroc": 0.75, "name": "text"}}, {"roc": picture})
        assert dict(tracker.run.config) == config
        assert tracker.run.summary["filter/auroc"] == 0.75
        assert (tracker.run.project, tracker.run.group) == ("games", "night")
    folder = next((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert list(folder.glob("run-*.wandb"))
    assert list(folder.rglob("roc*.png"))


def test_a_game_that_fails_closes_its_run(tmp_path, monkeypatch):
    import wandb

    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    with pytest.raises(ZeroDivisionError), track("offline", "games", None, {}, tmp_path / "run"):
        raise ZeroDivisionError
    assert wandb.run is None


def test_online_without_a_key_stops_at_once(tmp_path, no_key):
    with (
        pytest.raises(UserError, match=r"wandb login.*wandb.mode=offline"),
        track("online", "p", None, {}, tmp_path / "run"),
    ):
        pytest.fail("the game began")


def test_a_key_is_found_in_the_environment_or_in_netrc(monkeypatch, no_key):
    asked = []

    def connect(address, timeout):
        asked.append(address)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(UserError, match="needs an API key"):
        check_tracking("online", "games", None)
    no_key.write_text("machine api.wandb.ai login user password secret\n")
    check_tracking("online", "games", None)
    assert asked == [("api.wandb.ai", 443)]
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example.org")
    with pytest.raises(UserError, match="needs an API key"):
        check_tracking("online", "games", None)
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    check_tracking("online", "games", None)
    assert asked[1:] == [("wandb.example.org", 80)]


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"use wandb\.mode=disabled, offline or"), track("on", "p", None, {}, tmp_path):
        pytest.fail("the game began")


def test_numbers_are_flattened_and_text_is_left_to_the_record():
    assert dict(_numbers({"a": 1, "b": {"c": 0.5, "d": "x", "e": [1]}, "f": True})) == {"a": 1, "b/c": 0.5, "f": True}


LONG, REFUSED = "x" * 200, ("", " ", "a\nb", 3)


@pytest.mark.parametrize("name", ["games/first", "games:first", "100%", "a#b", "a?b", "a\\b", LONG, *REFUSED, None])
def test_a_name_that_wandb_refuses_is_refused_before_the_game(name, tmp_path):
    for mode in ("disabled", "offline"):
        with pytest.raises(UserError, match=r"wandb\.project"), track(mode, name, None, {}, tmp_path):
            pytest.fail("the game began")


@pytest.mark.parametrize("name", [LONG, *REFUSED])
def test_a_group_that_wandb_refuses_is_refused_and_others_are_not(name):
    check_tracking("disabled", "games", None)
    check_tracking("disabled", "games", "night/3: 100%")
    with pytest.raises(UserError, match=r"wandb\.group"):
        check_tracking("disabled", "games", name)


@pytest.fixture
def wandb_home(tmp_path, monkeypatch):
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    return tmp_path


def test_an_error_of_wandb_is_a_sentence_before_the_game_and_a_warning_after_it(wandb_home, monkeypatch, caplog):
    import wandb

    def broken(*_, **__):
        raise wandb.Error("its service is gone\nfor good")

    with track("offline", "games", None, {}, wandb_home / "run") as tracker:
        monkeypatch.setattr(type(tracker.run), "log", broken)
        finish = tracker.run.finish
        monkeypatch.setattr(type(tracker.run), "finish", broken)
        tracker.log({"a": 1})
    ours = [record.levelname for record in caplog.records if record.name == "experiments.play.tracking"]
    assert ours == ["WARNING", "WARNING"]
    assert "Weights & Biases has failed (Error: its service is gone); the result is complete." in caplog.text
    monkeypatch.undo()
    finish()
    monkeypatch.setattr(wandb, "init", broken)
    begins = pytest.raises(UserError, match=r"cannot begin a run \(its service is gone\)")
    with begins, track("offline", "games", None, {}, wandb_home / "run"):
        pytest.fail("the game began")


def test_offline_asks_nothing_of_any_network(wandb_home):
    """Nothing is looked up and nothing connected to, in this process; what else wandb starts listens on a file only."""
    code = (
        "import socket, sys; from pathlib import Path\n"
        "def refuse(*a, **k): print('LOOKUP', a); raise OSError('no network here')\n"
        "socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse\n"
        "from experiments.play.tracking import track\n"
        f"with track('offline', 'p', None, {{}}, Path({str(wandb_home / 'run')!r})) as it: it.log({{'a': 1}})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert list((wandb_home / "run" / "wandb").glob("offline-run-*/run-*.wandb"))


def test_the_environment_is_as_it_was(wandb_home, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    with track("offline", "p", None, {}, wandb_home / "run"):
        assert os.environ["WANDB_MODE"] == "offline"
    assert os.environ["WANDB_MODE"] == "online"
    assert "WANDB_ERROR_REPORTING" not in os.environ
