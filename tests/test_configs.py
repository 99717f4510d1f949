"""Every YAML under conf/ composes, and what it names can be built."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from data.naming import AUTOMATIC
from experiments.cli.build import build
from experiments.cli.options import check_keys, known_keys
from experiments.cli.roles import game_of
from experiments.paper_table.checking import specification
from experiments.paper_table.games import cells_of
from experiments.play.setup import resolved
from experiments.sweeps.cells import expand

CONF = Path(__file__).resolve().parents[1] / "conf"
OPTIONS = sorted(path.relative_to(CONF).with_suffix("") for path in CONF.rglob("*.yaml") if path.parent != CONF)
TABLES = [option for option in OPTIONS if option.parts[0] == "table"]
PRESETS = [option for option in OPTIONS if option.parts[0] == "experiment"]
PRIMARY = sorted(path.stem for path in CONF.glob("*.yaml"))


def composed(name: str, *overrides: str) -> DictConfig:
    """The configuration without Hydra's part, with a stand-in for values that only the user has (a path)."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, overrides=list(overrides))
    for key in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, key, "given-by-the-user")
    if "attack" in cfg:
        plain = OmegaConf.to_container(cfg)
        assert isinstance(plain, dict)
        _, whole = resolved({str(key): value for key, value in plain.items()})
        return OmegaConf.create({key: value for key, value in whole.items() if key != AUTOMATIC})
    return cfg


def test_there_is_something_to_check():
    assert "run" in PRIMARY
    assert OPTIONS


@pytest.mark.parametrize("name", PRIMARY)
def test_a_primary_config_composes_with_every_group_and_only_known_keys(name):
    cfg = composed(name)
    OmegaConf.resolve(cfg)
    check_keys(cfg, known_keys(CONF, name))


@pytest.mark.parametrize("option", TABLES, ids=str)
def test_a_table_is_well_formed_and_the_cells_of_every_size_compose(option):
    table = specification(option.name, OmegaConf.to_container(OmegaConf.load(CONF / f"{option}.yaml")))
    assert {"smallest", "quick", "paper"} <= set(table.sizes)
    for size in table.sizes:
        rows = table.rows(size)
        assert len(cells_of(rows, range(1), [], ())) == len(rows)


@pytest.mark.parametrize("preset", PRESETS, ids=str)
def test_a_preset_composes_with_known_keys_and_its_game_can_be_built(preset):
    """And what is typed beside it counts more."""
    swept = "sweeper" in (CONF / f"{preset}.yaml").read_text(encoding="utf-8")  # of which one cell will do
    few = ["attack=uncertainty", "unlearning=retrain", "defense=none", "attack/adaptive=none"] if swept else []
    [cell] = expand([f"experiment={preset.name}", *few])
    game = game_of(cell.config).name
    assert game in preset.name or preset.name.startswith("paper_") or swept
    for group in ("data", "training", "unlearning", "attack", "defense"):
        build(cell.config[group], group)
    typed = {"request": ("random", "game.targets.count=5"), "verification": ("do_nothing", "game.users=5")}[game]
    alone = few[1:2]
    [other] = expand([f"experiment={preset.name}", f"attack={typed[0]}", typed[1], "defense=none", *alone])
    assert other.config["attack"]["_target_"].split(".")[-2] == typed[0]
    assert 5 in (other.config["game"].get("users"), other.config["game"].get("targets", {}).get("count"))
    assert other.config["defense"]["_target_"] == "defenses.none.NoDefense"
    assert other.config["attack"].get("budget") == cell.config["attack"].get(
        "budget", other.config["attack"].get("budget")
    )
    assert other.config["training"] == cell.config["training"]


def with_its_game(option: Path) -> list[str]:
    """What an option needs beside it, so that all parts play one game."""
    if option == Path("attack/none"):
        return ["game=request"]
    target = OmegaConf.load(CONF / f"{option}.yaml").get("_target_", "")
    kind = get_object(target) if option.parts[0] in ("defense", "game") else None
    plays = kind.name if option.parts[0] == "game" else getattr(kind, "game", "request")
    return [] if plays in ("request", "any") else ["attack=none", f"game={plays}"]


@pytest.mark.parametrize("option", [each for each in OPTIONS if each not in (*TABLES, *PRESETS)], ids=str)
def test_an_option_composes_and_builds(option):
    group = option.parent.as_posix()
    cfg = composed("run", f"{group}={option.name}", *with_its_game(option))
    hydras = group.startswith("hydra/")  # a composed configuration leaves that part out
    node = OmegaConf.load(CONF / f"{option}.yaml") if hydras else OmegaConf.select(cfg, group.replace("/", "."))
    plain = OmegaConf.to_container(node, resolve=True)
    assert "_target_" in plain
    component = build(node, group)
    if plain.get("_partial_"):  # its call gets the rest; what the YAML gives must at least be its options
        given = {key: value for key, value in plain.items() if key not in ("_target_", "_partial_")}
        inspect.signature(get_object(plain["_target_"])).bind_partial(**given)
    else:
        assert isinstance(component, get_object(plain["_target_"]))
