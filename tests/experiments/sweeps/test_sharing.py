"""Groups composed apart: every combination is what Hydra composes for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from data.naming import without_choices
from experiments.cli.options import CONF
from experiments.play.setup import resolved
from experiments.sweeps import cells
from experiments.sweeps.cells import expand
from experiments.sweeps.sharing import ANY, apart


def test_groups_with_nothing_in_common() -> None:
    groups = {
        "attack": ["attack=random", "attack=burn"], "unlearning": ["unlearning=retrain", "unlearning=sisa"],
        "attack/adaptive": ["attack/adaptive=none"], "defense": ["defense=none", "defense=norm"],
    }  # fmt: skip
    assert apart(groups, groups, [CONF]) == [
        (["unlearning"], {"unlearning"}),
        (["attack", "attack/adaptive"], {"attack", "game"}),
        (["defense"], {"defense"}),
    ]


def test_an_option_that_chooses_elsewhere_joins_groups_unless_that_is_typed() -> None:
    removal = {"model": ["model=mlp", "model=logistic"], "unlearning": ["unlearning=certified_removal"]}
    assert apart(removal, [], [CONF]) == [(["model", "unlearning"], {"model", "unlearning", "training"})]
    typed = apart(removal, ["model", "unlearning"], [CONF])
    assert typed == [(["model"], {"model"}), (["unlearning"], {"unlearning", "training"})]


@pytest.mark.parametrize(
    "text", ["# @package _global_\nseed: 3\n", "defaults:\n  - optional other: x\n", "defaults:\n  - a@_global_.b: c\n"]
)
def test_an_option_that_may_change_anything_is_apart_from_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "defense").mkdir()
    (tmp_path / "defense" / "odd.yaml").write_text(text)
    groups = {"defense": ["defense=odd"], "unlearning": ["unlearning=sisa"]}
    assert [names for names, _ in apart(groups, groups, [CONF, tmp_path])] == [["defense", "unlearning"]]
    assert ANY in apart({"+attack.x": ["+attack.x=1"]}, [], [CONF])[0][1]


def test_combinations_are_what_hydra_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attacks, an adaptive one, two procedures of which one brings a model, two defenses, from few compositions."""
    counted: list[list[str]] = []
    once = cells.composed
    monkeypatch.setattr(
        cells, "composed", lambda name, words, options: counted.append(words) or once(name, words, options)
    )
    found = expand(
        ["experiment=matrix", "attack=misclassification,burn", "unlearning=sisa,certified_removal", "defense=none,norm"]
    )
    assert len(found) == (2 + 1) * 2 * 2
    assert len(counted) == 3 + 1 + 1
    for cell in found:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            alone = OmegaConf.to_container(compose("run", [*cell.overrides, *_fitting(cell)]), resolve=True)
        assert isinstance(alone, dict)
        _, expected = resolved({str(key): value for key, value in alone.items()} | {"figures": False})
        assert without_choices(cell.config) == expected


def _fitting(cell: cells.Cell) -> list[str]:
    """What the preset sets where there is such an option."""
    queries, brake = "queries" in cell.config["attack"], "loss_cap" in cell.config["unlearning"]
    return ["attack.queries=100"] * queries + ["unlearning.loss_cap=1e6"] * brake
