"""The command that is printed beside a result gives the result's configuration."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from experiments.cli.options import CONF
from experiments.cli.reproduce import AUTOMATIC, LEFT_OUT, line, overrides, typed
from experiments.sweeps.cells import expand

LINES = (
    (),
    ("defense=none",),
    ("attack=none", "game=request"),
    ("attack=random", "game.stream.harder=null", "game.targets.direction=over", "game.fresh_seeds=4"),
    ("attack=random", "defense=none", "seed=3"),
    ("attack=misclassification", "unlearning=second_order", "attack.norm_cap=0.7", "game.targets.over=[0.3,0.65]"),
    ("attack/functional=mc_dropout", "model.dropout=0.1", "attack.functional.samples=4"),
    ("model=logistic", "training=newton", 'defense.score="S1\'"', "game.targets.mode=set", "attack.owned=0.25"),
    ("data=mnist", "data.root='/some folder/with, odd (names)'", "data.subset=100", "model.widths=[16,8]"),
)


def settled(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in LEFT_OUT - {"seed"}}


def command(config: dict[str, Any], seeds: list[int] | None = None) -> str:
    return line(overrides(config), [config["seed"]] if seeds is None else seeds)


@pytest.mark.parametrize("typed_line", LINES, ids=lambda each: " ".join(each) or "defaults")
def test_the_command_leads_back(typed_line: tuple[str, ...]) -> None:
    [cell] = expand(typed_line)
    record = {"config": cell.config, AUTOMATIC: cell.config.get(AUTOMATIC, [])}
    words = shlex.split(command(typed(record)))
    assert words[:2] == ["python", "experiments/run.py"]
    [again] = expand(words[2:])
    assert settled(again.config) == settled(cell.config)
    assert len(words) - 2 <= len(typed_line)  # nothing that is a default is repeated


@pytest.mark.parametrize("attack", [path.stem for path in sorted((CONF / "attack").glob("*.yaml"))])
def test_every_attack_leads_back(attack: str) -> None:
    """Whatever an attack brings is not repeated, and what it would bring is written where it was not played."""
    game = ["game=request"] if attack == "none" else []
    options = {
        "verification": ["game.users=3", "game.proof.every=2", "judge=quick"],
        "request": ["game.targets.count=3", "attack.budget=7", "judge=quick"],
        "undeleted": ["judge=quick"],
    }
    plays = getattr(get_object(OmegaConf.load(CONF / f"attack/{attack}.yaml")["_target_"]), "game", "request")
    without = [] if plays == "undeleted" else ["defense=none"]  # there it is the default
    for more in ([], without, options.get(plays, options["request"])):
        line = [f"attack={attack}", *game, *more]
        [cell] = expand(line)
        found = list(overrides(typed({"config": cell.config, AUTOMATIC: cell.config.get(AUTOMATIC, [])})))
        assert sorted(found) == sorted(line if attack != "uncertainty" else line[1:])
        [again] = expand(found)
        assert again.config | {"choices": 0} == cell.config | {"choices": 0}


def test_a_preset_is_what_it_sets() -> None:
    [cell] = expand(["experiment=quick_request"])
    found = list(overrides(typed({"config": cell.config, AUTOMATIC: cell.config.get(AUTOMATIC, [])})))
    assert "game.targets.count=2" in found
    [again] = expand(found)
    assert again.config | {"choices": 0} == cell.config | {"choices": 0}


def test_several_seeds_are_a_sweep() -> None:
    [cell] = expand(["attack=random"])
    assert command(cell.config, [2, 0, 1]) == "python experiments/run.py -m attack=random 'seed=range(0,3)'"
    assert command(cell.config, [4]) == "python experiments/run.py attack=random seed=4"


def test_a_component_of_the_users_own_is_named_by_its_target() -> None:
    [cell] = expand(["attack=random"])
    cell.config["attack"]["_target_"] = "mine.Attack"
    assert command(cell.config) == "python experiments/run.py game=request attack=none attack._target_=mine.Attack"
    cell.config["game"] = {"_target_": "mine.Game", "rounds": 3}
    words = shlex.split(command(cell.config))
    assert {"game._target_=mine.Game", "+game.rounds=3", "~game.targets", "~game.stream"} <= {*words}


def test_text_of_a_record_reads_back_as_it_is() -> None:
    """No quote, backslash or interpolation in it becomes something else in the reader's shell and settings."""
    texts = [
        "${oc.env:HOME}", "x ${y}", "\\${z}", "a'b", "a\\'b", "a\\b", "a\\", "\\\\'", "'", "é ✓", "[1,2]", "nan",
        "True", "null", "1e5", "", " x ", "a\nb", "a,b=c", "$(touch x)", "`x`", '"', "{a:b}", "a:b", "#", "-m", "~",
    ]  # fmt: skip
    [cell] = expand(["attack=random"])
    cell.config["data"]["root"] = texts
    [again] = expand(shlex.split(command(cell.config))[2:])
    assert again.config["data"]["root"] == texts
