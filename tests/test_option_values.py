"""Every option of every component in conf/, given what it is not: one sentence, or a component."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from data.errors import UserError
from experiments.cli.explain import sentence
from experiments.cli.roles import component, known_games
from experiments.play.setup import resolved
from games.game import Game
from tests.test_configs import with_its_game

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = (
    "game",
    "data",
    "training",
    "unlearning",
    "attack",
    "attack/functional",
    "attack/adaptive",
    "defense",
    "hydra/launcher",
)
OPTIONS = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
GAMES = known_games()  # each says what attacks and defenses of its own must be
NEEDS = {"data=arrays": ["data.path=mine.npz"]}
BAD = (math.inf, -math.inf, math.nan, -1, 0, 10**30, 1e300, "", "text", True, None, [1], {"a": 1}, [])


def node_of(option: str) -> tuple[str, dict[str, Any]]:
    """Where the component of `group=name` stands, and its configuration."""
    group, _, name = option.partition("=")
    place = group.split("/")[0] if group != "hydra/launcher" else "hydra.launcher"
    if place == "hydra.launcher":
        node = OmegaConf.to_container(OmegaConf.load(CONF / f"{group}/{name}.yaml"), resolve=True)
        assert isinstance(node, dict)
        return place, {str(key): value for key, value in node.items()}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        beside = with_its_game(Path(*option.replace("=", "/").split("/")))
        cfg = compose("run", overrides=[option, *beside, *NEEDS.get(option, ())])
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return place, resolved({str(key): value for key, value in plain.items()})[1][place]


def leaves(node: Mapping[str, Any], outer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*outer, key))
        elif not key.startswith("_"):
            yield (*outer, key), value


def own_leaves(option: str, node: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Those of the option itself: an attack is looked at once, and not again with every component inside it."""
    _, _, inner = option.partition("=")[0].partition("/")
    whole = not inner or option.startswith("hydra/")
    return ((path, now) for path, now in leaves(node) if whole or path[0] == inner)


def with_value(node: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    inner = value if len(path) == 1 else with_value(node[path[0]], path[1:], value)
    return {**node, path[0]: inner}


def game_of(option: str) -> Game:
    """The game that an option belongs to; any where it fits all."""
    group, _, name = option.partition("=")
    target = str(OmegaConf.load(CONF / f"{group}/{name}.yaml").get("_target_"))
    return GAMES.get(str(getattr(get_object(target), "game", "request")), GAMES["request"])


def refusal(node: Mapping[str, Any], place: str, game: Game) -> str | None:
    """The sentence with which a component is refused; None where it is built. Anything else is an error."""
    try:
        component(node, place, game)
    except UserError as error:
        return sentence(error)
    return None


@pytest.mark.parametrize("option", OPTIONS)
def test_what_an_option_is_not_is_one_sentence_or_a_component(option: str) -> None:
    place, node = node_of(option)
    for path, now in own_leaves(option, node):
        for value in BAD:
            said = refusal(with_value(node, path, value), place, game_of(option))
            where = f"{'.'.join(path)}={value!r}"
            if said is not None:
                assert said.startswith(f"{place}"), (where, said)
                assert said.endswith((".", "?")), (where, said)
                assert "\n" not in said, where
            if isinstance(now, int | float) and not isinstance(now, bool):
                number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
                meant = number or value is None
                assert said is not None or meant, f"{where} is taken for a number"


@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_that_is_none_is_refused_in_python_too(option: str) -> None:
    """Without a configuration the class itself sees to it."""
    _, node = node_of(option)
    made = get_object(node["_target_"])
    for path, now in leaves(node):
        if len(path) == 1 and isinstance(now, float):
            for value in (math.inf, math.nan):
                with pytest.raises(ValueError, match=path[0]):
                    made(**{path[0]: value})


@pytest.mark.parametrize("option", OPTIONS)
def test_every_component_knows_its_place(option: str) -> None:
    """Where another component's class stands in its place, the sentence says what is missing."""
    place, node = node_of(option)
    assert refusal(node, place, game_of(option)) is None
    for other in ("builtins.dict", "models.mlp.MLP", "pathlib.Path", "data.splits", "math.sqrt"):
        said = refusal({**node, "_target_": other}, place, game_of(option))
        assert said is not None
        assert said.startswith(place), said
        assert said.count("\n") == 0
