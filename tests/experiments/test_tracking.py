import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import UserError
from experiments.tracking import _has_key, _numbers, track

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_disabled_does_not_import_wandb_and_writes_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from experiments.tracking import track\n"
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
    assert not _has_key()
    no_key.write_text("machine api.wandb.ai login user password secret\n")
    assert _has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not _has_key()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert _has_key()


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"use wandb\.mode=disabled, offline or"), track("on", "p", None, {}, tmp_path):
        pytest.fail("the game began")


def test_numbers_are_flattened_and_text_is_left_to_the_record():
    assert dict(_numbers({"a": 1, "b": {"c": 0.5, "d": "x", "e": [1]}, "f": True})) == {"a": 1, "b/c": 0.5, "f": True}
