"""Options of the user's own: which file is meant, and where Python finds what it names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import UserError
from experiments.cli.arguments import checked, make_importable
from experiments.cli.options import check_presets
from experiments.sweeps.cells import expand
from tests.experiments.games import ROOT, command, run
from tests.experiments.small_sweeps import TINY

CONF = ROOT / "conf"
OWN = "from attacks.requester.random import Random\n\n\nclass Mine(Random):\n    name = 'mine'\n"


def option(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_an_option_with_the_name_of_one_of_ours_is_refused_when_it_is_chosen(tmp_path: Path) -> None:
    mine = option(tmp_path, "attack/random", "_target_: attacks.requester.random.Random\nbudget: 3\n")
    expand(["attack=none", "game=request"], folders=[tmp_path])
    for typed in (["attack=random"], ["attack=none,random", "game=request"]):
        with pytest.raises(UserError, match=f"{mine} is not used, since .*conf/attack/random.yaml has the same name"):
            expand(typed, folders=[tmp_path])
    done = subprocess.run(
        command("--config-dir", str(tmp_path), "attack=random"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {mine} is not used")


def test_a_copy_of_ours_is_no_other_option_and_a_new_one_is_used(tmp_path: Path) -> None:
    shutil.copytree(CONF, tmp_path / "conf")
    option(tmp_path / "conf", "attack/mine", "_target_: attacks.requester.random.Random\nbudget: 3\n")
    [cell] = expand(["attack=mine", "game=request"], folders=[tmp_path / "conf"])
    assert cell.config["attack"] == {"_target_": "attacks.requester.random.Random", "budget": 3}


@pytest.mark.parametrize("text", ["hydra:", "hydra: 3"])
def test_a_preset_that_sets_nothing_of_hydra(tmp_path: Path, text: str) -> None:
    option(tmp_path, "experiment/empty", f"# @package _global_\n{text}\n")
    with pytest.raises(UserError, match=r"empty\.yaml: its `hydra:` holds nothing"):
        check_presets(["seed=0", "experiment=empty"], [tmp_path])
    check_presets(["experiment=quick_request", "experiment=unknown"], [tmp_path])


def test_two_folders_of_the_users_with_one_name(tmp_path: Path) -> None:
    first = option(tmp_path / "a", "attack/mine", "_target_: attacks.requester.random.Random\nbudget: 3\n")
    second = option(tmp_path / "b", "attack/mine", "_target_: attacks.requester.random.Random\nbudget: 4\n")
    with pytest.raises(UserError, match=f"{second} is not used, since {first} has the same name; give it another name"):
        expand(["attack=mine", "game=request"], folders=[tmp_path / "a", tmp_path / "b"])


def test_the_name_of_a_folder_may_have_any_characters(tmp_path: Path) -> None:
    for name in ('a "b"', "it's", "c,d=[e]", "$f ${g}", "h\\"):
        option(tmp_path / name, "attack/mine", "_target_: attacks.requester.random.Random\nbudget: 3\n")
        [cell] = expand(["attack=mine", "game=request"], folders=[tmp_path / name])
        assert cell.config["attack"]["budget"] == 3


@pytest.mark.parametrize("layout", ["conf", "options"])
def test_modules_beside_the_options_are_found(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder itself, or beside one that is called conf; in this process and in those of a launcher."""
    brings = "defaults: [_self_, override /game@_global_.game: request]\n"
    text = f"{brings}_target_: my_own_attack.Mine\nbudget: 3\nowned: 1.0\npool: null\n"
    option(tmp_path / layout, "attack/mine", text)
    (tmp_path / ("" if layout == "conf" else layout) / "my_own_attack.py").write_text(OWN)
    words = [*TINY, f"store.dir={tmp_path}/store", "attack=mine", "defense=none", "figures=false"]
    more = ["-m", "seed=1,2", "hydra/launcher=local", "hydra.launcher.workers=1"] if layout == "conf" else []
    monkeypatch.delenv("PYTHONPATH", raising=False)
    done = run(*words, "--config-dir", layout, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("store/game/*/*.json"))) == (2 if more else 1)


def test_what_is_made_importable_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    before = list(sys.path)
    make_importable([])
    assert "PYTHONPATH" not in os.environ
    make_importable([tmp_path, tmp_path])
    assert sys.path == [*before, str(tmp_path)]
    assert os.environ["PYTHONPATH"] == str(tmp_path)


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        (["a=1", "-m", "b=2"], ["-m", "a=1", "b=2"]),
        (["a=1", "--config-dir", "HERE", "b=2", "a=1"], ["--config-dir", "HERE", "a=1", "b=2", "a=1"]),
        (["x=1", "-c", "job", ""], ["-c", "job", "x=1", ""]),
    ],
)
def test_flags_and_overrides_may_be_mixed(typed: list[str], ordered: list[str], tmp_path: Path) -> None:
    here = [str(tmp_path) if word == "HERE" else word for word in typed]
    assert checked(here) == [str(tmp_path) if word == "HERE" else word for word in ordered]
