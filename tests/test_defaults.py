"""Defaults live once: every YAML says what its class does by itself, for every option that may be set."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from experiments.play.settings import Settings

CONF = Path(__file__).resolve().parents[1] / "conf"
OPTIONS = sorted(
    p.relative_to(CONF).with_suffix("").as_posix()
    for p in CONF.rglob("*/*.yaml")
    if not {"table", "experiment"} & {*p.parts}
)
BY_DATA = {"shape", "classes"}  # of a model: what the data set gives
REQUIRED = object()

# Recipes of one class for another optimizer: what they set instead, and what that optimizer has no use for.
RECIPES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "training/sgd": ({}, {"tolerance"}),
    "training/adam": ({"optimizer": "adam", "lr": 0.003, "weight_decay": 0.001}, {"tolerance", "momentum"}),
    "training/newton": (
        {"optimizer": "newton", "weight_decay": 0.001}, {"lr", "schedule", "epochs", "momentum", "batch_size"},
    ),
}  # fmt: skip


def node(option: str) -> dict[str, Any]:
    """The YAML as it is written, with the groups inside it, such as `functional`, in their places."""
    raw = OmegaConf.to_container(OmegaConf.load(CONF / f"{option}.yaml"))
    assert isinstance(raw, dict)
    inner = [each for each in raw.pop("defaults", []) if isinstance(each, dict)]
    chosen = {key: value for each in inner for key, value in each.items() if not str(key).startswith("override ")}
    group = option.rpartition("/")[0]
    return {
        **{str(key): value for key, value in raw.items()},
        **{k: node(f"{group}/{k}/{v}") for k, v in chosen.items()},
    }


def defaults(kind: Any) -> dict[str, Any]:
    """What a class takes when nothing is said, by option."""
    if not dataclasses.is_dataclass(kind):
        signature = inspect.signature(kind).parameters.values()
        return {p.name: p.default if p.default is not p.empty else REQUIRED for p in signature if p.name not in BY_DATA}
    found = {}
    for field in dataclasses.fields(kind):
        if hasattr(kind, "__pydantic_fields__"):
            known = kind.__pydantic_fields__[field.name]
            found[field.name] = REQUIRED if known.is_required() else known.get_default(call_default_factory=True)
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
        else:
            found[field.name] = REQUIRED if field.default is dataclasses.MISSING else field.default
    return found


def differences(written: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> list[str]:
    """What a YAML node says otherwise than `expected`, does not say, or says beside it."""
    given = {key: value for key, value in written.items() if key not in ("_target_", "_partial_")}
    found = [f"{where}{key} is not in the YAML" for key in expected.keys() - given.keys()]
    found += [f"{where}{key} is no option" for key in given.keys() - expected.keys()]
    for key in given.keys() & expected.keys():
        value, default = given[key], expected[key]
        if isinstance(value, dict) and "_target_" in value:
            kind = get_object(value["_target_"])
            if type(default) is not kind:
                found.append(f"{where}{key} is a {kind.__name__}, and by default {default!r}")
            else:
                found += differences(value, {each: getattr(default, each) for each in defaults(kind)}, f"{where}{key}.")
        elif dataclasses.is_dataclass(default):  # settings of a component, in groups
            found += differences(value, {each: getattr(default, each) for each in defaults(type(default))}, f"{key}.")
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):  # a row of components
            made = [
                get_object(each["_target_"])(**{k: v for k, v in each.items() if k != "_target_"}) for each in value
            ]
            found += [] if made == list(default) else [f"{where}{key} is {made!r}, and by default {default!r}"]
        elif default is REQUIRED:
            found += [] if value == "???" else [f"{where}{key} has no default in the class"]
        elif value != (list(default) if isinstance(default, tuple) else default):
            found.append(f"{where}{key} is {value!r}, and by default {default!r}")
    return sorted(found)


def test_there_is_something_to_check() -> None:
    assert len(OPTIONS) > 40
    assert set(RECIPES) <= set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_yaml_says_what_its_class_does(option: str) -> None:
    written = node(option)
    expected = defaults(get_object(written["_target_"]))
    instead, useless = RECIPES.get(option, ({}, set()))
    expected = {key: value for key, value in {**expected, **instead}.items() if key not in useless}
    assert differences(written, expected, "") == []


def test_the_settings_of_no_component_say_what_their_classes_do() -> None:
    """conf/run.yaml: seeds, judge and machine."""
    own = OmegaConf.to_container(OmegaConf.load(CONF / "run.yaml"))
    assert isinstance(own, dict)
    expected = defaults(Settings)
    for name in expected:
        kind = type(expected[name])
        if dataclasses.is_dataclass(kind):
            assert differences(own[name], defaults(kind), f"{name}.") == []
        else:
            assert own[name] == expected[name], name


def test_a_difference_is_seen_wherever_it_is() -> None:
    kind = get_object("unlearning.second_order.SecondOrder")
    written = node("unlearning/second_order")
    assert differences(written, defaults(kind), "") == []
    written["solver"]["damping"] = 0.0
    del written["solver"]["rank"]
    written["more"] = 1
    assert differences(written, defaults(kind), "") == [
        "more is no option", "solver.damping is 0.0, and by default 0.03", "solver.rank is not in the YAML",
    ]  # fmt: skip
    assert differences({**node("data/arrays"), "path": "mine.npz"}, defaults(get_object("data.arrays.Arrays")), "") == [
        "path has no default in the class"
    ]
