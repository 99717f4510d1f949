"""Expanding a sweep: the cells are those that Hydra would compose, each one once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from data.errors import UserError
from data.naming import without_choices
from experiments.cli.options import CONF
from experiments.play.setup import prepare, resolved, store_of
from experiments.sweeps.cells import Cell, expand
from experiments.sweeps.sweep import plan
from tests.experiments.games import config

SWEEP = (
    "attack=uncertainty,random", "attack.budget=5,6", "seed=range(2)", "game.targets.over=[0.3,0.6]",
    "~game.targets.mode", "+game.targets.mode=set", "defense=influence", "defense.score=S1,S8",
)  # fmt: skip


def test_the_product_in_order() -> None:
    cells = expand(["attack=random,none", "game=request", "seed=range(3)", "defense=none"])
    assert [cell.name for cell in cells] == [
        f"attack={attack},seed={seed}" for attack in ("random", "none") for seed in range(3)
    ]
    assert cells[4].overrides == ("attack=none", "game=request", "seed=1", "defense=none")
    assert cells[4].config["seed"] == 1
    assert cells[4].config["attack"]["_target_"].endswith("NoAttack")


def test_cells_are_what_hydra_composes() -> None:
    """Values set in a copy of a composed configuration, against composing every cell from the beginning."""
    for cell in expand(SWEEP):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            alone = OmegaConf.to_container(compose("run", list(cell.overrides)), resolve=True)
        assert isinstance(alone, dict)
        _, expected = resolved({str(key): value for key, value in alone.items()} | {"figures": False})
        assert without_choices(cell.config) == expected


def test_equal_cells_are_one() -> None:
    assert len(expand(["seed=1,1,2"])) == 2
    assert len(expand(["attack.budget=20,21", "attack=random"])) == 2


def test_one_cell_without_a_sweep_is_named_by_its_overrides() -> None:
    [cell] = expand(["attack=random", "data=mnist", "data.root=/a b/c"])
    assert "/" not in cell.name
    assert " " not in cell.name
    [cell] = expand([])
    assert cell.name == "cell"


def test_long_names_stay_short_and_unique() -> None:
    cells = expand(["data=mnist", f"data.root={'x' * 120}a,{'x' * 120}b"])
    assert len({cell.name for cell in cells}) == 2
    assert all(len(cell.name) <= 100 for cell in cells)


def test_figures_only_where_they_are_asked_for() -> None:
    assert expand(["seed=0,1"])[0].config["figures"] is False
    assert expand(["seed=0,1", "figures=true"])[0].config["figures"] is True


def test_a_mistake_in_any_cell_is_found_before_the_first_is_played() -> None:
    with pytest.raises(HydraException):
        expand(["attack=random,randm"])
    with pytest.raises(UserError, match=r"game\.targets"):
        expand(["game.targets.count=1,many"])
    with pytest.raises(UserError, match="no finite list"):
        expand(["training.lr=interval(0,1)"])


def test_paths_are_those_that_a_game_is_kept_under(tmp_path: Path) -> None:
    setup = prepare(config(tmp_path, "seed=3", "repetitions=2"))
    cell, store = Cell("cell", (), setup.config), store_of(setup.config)
    [status] = plan([cell], store).to_play
    keys = [{**setup.keys.game(), "seed": seed} for seed in (3, 4)]
    assert list(status.files) == [store.record_path("game", key) for key in keys]


def test_a_thousand_seeds_are_quick(tmp_path: Path) -> None:
    """Cells that differ in their seeds alone are composed, resolved and checked once: 0.5 ms each, not 0.1 s."""
    began = time.process_time()
    cells = expand(["seed=range(1000)", f"store.dir={tmp_path}"])
    todo = plan(cells, store_of(cells[0].config))
    seconds = time.process_time() - began
    assert len({file for status in todo.to_play for file in status.files}) == len(cells) == 1000
    assert [cell.config["seed"] for cell in cells] == list(range(1000))
    assert seconds < 6  # with the imports, the data set and one check of everything


def test_what_follows_the_seed_differs_with_it() -> None:
    cells = expand(["seed=3,4", "game.fresh_seeds=${seed}"])
    assert [cell.config["game"]["fresh_seeds"] for cell in cells] == [3, 4]


@pytest.mark.parametrize("wrong", ["many", "1.5", "true", "[1]"])
def test_every_seed_is_checked(wrong: str) -> None:
    with pytest.raises(UserError, match="seed must be a whole number"):
        expand([f"seed=0,1,{wrong}"])


def test_a_preset_may_be_a_sweep() -> None:
    """Its lists are swept over, its single values set where there is such an option; what is typed counts more."""
    cells = expand(["experiment=matrix", "attack=misclassification,random", "unlearning=gradient_ascent,sisa"])
    assert len(cells) == (2 + 1) * 2 * 6  # only one of the attacks may be adaptive
    capped = [cell for cell in cells if "attack/adaptive=norm_cap" in cell.overrides]
    assert len(capped) == 2 * 6
    assert {cell.config["attack"]["adaptive"]["quantile"] for cell in capped} == {0.7}
    assert not any("adaptive" in text for cell in cells for text in cell.overrides if "attack=random" in cell.overrides)
    cells = [cell for cell in cells if cell not in capped]
    assert len(cells) == 2 * 2 * 6
    assert {cell.config["judge"] for cell in cells} == {"quick"}
    for cell in cells:
        assert cell.config["attack"].get("queries", 100) == 100
        assert cell.config["unlearning"].get("loss_cap", 1e6) == 1e6
    assert sum("queries" in cell.config["attack"] for cell in cells) == 12
    assert sum("loss_cap" in cell.config["unlearning"] for cell in cells) == 12
    single = ["attack=misclassification", "attack/adaptive=none", "unlearning=sisa", "defense=none"]
    [one] = expand(["experiment=matrix", *single, "attack.queries=7"])
    assert one.config["attack"]["queries"] == 7


@pytest.mark.parametrize("text", ["", "hydra:\n  sweeper:\n", "hydra:\n  sweeper:\n    params:\n"])
def test_a_preset_with_nothing_to_sweep_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "empty.yaml").write_text(f"# @package _global_\njudge: quick\n{text}")
    cells = expand(["experiment=empty", "seed=0,1"], folders=[tmp_path])
    assert [cell.config["judge"] for cell in cells] == ["quick", "quick"]


def test_a_sweep_of_a_preset_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      attack: random,nearest\n      seed: range(2)\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert len(expand(["experiment=mine"], folders=[tmp_path])) == 4
