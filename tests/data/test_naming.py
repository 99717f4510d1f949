"""The option's name, as typed, is what a game is called: in titles, records, tables and averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.naming import KEY, named, option, without_choices
from experiments.cli.roles import known_games
from experiments.listing.results import frame
from experiments.play.play import play_config
from experiments.report_page.heatmap import heatmap
from experiments.report_page.pool import pool
from experiments.sweeps.cells import CONF, expand
from games.request.game import RequestGame
from tests.experiments.games import QUICK, config

TWO = """from attacks.requester.random import Random


class First(Random):
    pass


class Second(Random):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of options with two attacks of one module, and a third that is the first under another name."""
    (tmp_path / "two_attacks_of_mine.py").write_text(TWO)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "attack").mkdir()
    for name, kind in (("one", "First"), ("other", "Second"), ("alias", "First")):
        (tmp_path / "attack" / f"{name}.yaml").write_text(
            f"defaults:\n  - _self_\n  - override /game@_global_.game: request\n"
            f"_target_: two_attacks_of_mine.{kind}\nbudget: 6\nowned: 1.0\npool: null\n"
        )
    return tmp_path


def cells(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    quick = [*QUICK, f"store.dir={folder / 'store'}", "unlearning=first_order", "defense=none"]
    return [cell.config for cell in expand([*quick, *overrides], CONF, "run", [folder])]


def test_the_name_is_the_option_that_was_typed(folder: Path) -> None:
    found = cells(folder, "attack=one,other,random", "model.widths=[8],[9]")
    assert [option(each, "attack") for each in found] == ["one", "one", "other", "other", "random", "random"]
    assert {option(each, "unlearning") for each in found} == {"first_order"}
    assert [RequestGame().title(each).partition(" attack")[0] for each in found[::2]] == ["one", "other", "random"]
    [uncertainty] = cells(folder, "attack/functional=entropy")
    assert uncertainty[KEY]["attack/functional"] == "entropy"
    assert not any(key.startswith("hydra") for key in uncertainty[KEY])


def test_a_typed_target_is_named_itself(folder: Path) -> None:
    [found] = cells(folder, "attack=random", "attack._target_=two_attacks_of_mine.Second")
    assert option(found, "attack") == "two_attacks_of_mine.Second"


def test_a_record_without_choices_is_named_by_its_module(tmp_path: Path) -> None:
    old = config(tmp_path, "attack=one_shot_influence")
    assert KEY not in old
    assert (option(old, "attack"), option(old, "data")) == ("one_shot_influence", "digits")
    choices = {"attack": "mine", "hydra/launcher": "local", "attack/functional": None, "gone": "x"}
    new = named(old, choices, ["seed=1"])
    assert new[KEY] == {"attack": "mine"}
    assert without_choices(new) == old


def test_two_attacks_of_one_module_stay_two_and_an_alias_is_the_same_game(folder: Path) -> None:
    results = [play_config(each, folder / str(i)) for i, each in enumerate(cells(folder, "attack=one,other"))]
    assert [each["title"].partition(" ")[0] for each in results] == ["one", "other"]
    table = frame(folder / "store")
    assert set(table["attack"]) == {"one", "other"}
    assert not any(str(column).startswith(KEY) for column in table.columns)
    [pooled] = pool(table, known_games())
    assert heatmap(pooled)["attacks"] == ["one", "other"]
    [alias] = cells(folder, "attack=alias")
    again = play_config(alias, folder / "alias")
    assert again["meta"]["served"] == [True]
    assert [option(each["config"], "attack") for each in again["games"]] == ["alias"]
    assert len(cells(folder, "attack=one,alias")) == 1  # of one sweep: equal configurations are one cell


def test_settings_of_one_attack_are_not_averaged_as_one(folder: Path) -> None:
    for i, each in enumerate(cells(folder, "attack=random,one", "attack.budget=5,6", "attack.owned=1.0")):
        play_config(each, folder / str(i))
    for i, each in enumerate(cells(folder, "attack=random", "attack.budget=5", "unlearning.rate=3.0")):
        play_config(each, folder / f"r{i}")
    [pooled] = pool(frame(folder / "store"), known_games())
    found = heatmap(pooled)
    assert found["attacks"] == ["one (budget=5)", "one (budget=6)", "random (budget=5)", "random (budget=6)"]
    assert found["procedures"] == ["first_order (rate=10)", "first_order (rate=3)"]
    assert {cell["cells"] for panel in found["panels"] for cell in panel["cells"]} == {1}
