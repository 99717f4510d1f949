"""Names of what was chosen: the option as it was typed, such as `attack=mine`, whatever its module is called.

A resolved configuration carries them as `choices`, beside what they stand for; no result depends on them, so no key of
the store holds them. A game that is in the store already is shown under the name it is asked for now; tables over a
store show the name under which it was first played.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KEY = "choices"
AUTOMATIC = "automatic"  # lists the options for which `auto` was typed, in a settled configuration and in a record


def named(config: Mapping[str, Any], choices: Mapping[Any, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration with its choices: those of Hydra's `runtime` in the composition that `overrides` made.

    Where a `_target_` was typed, the option's name says nothing any more; module and class stand in its place.
    """
    retargeted = {str(each).partition("=")[0].lstrip("+") for each in overrides}
    found = {}
    for group, option in choices.items():
        node = _at(config, str(group).split("/"))
        if isinstance(option, str) and "_target_" in node:
            typed = f"{str(group).replace('/', '.')}._target_" in retargeted
            found[str(group)] = _short(node["_target_"]) if typed else option
    return {**config, KEY: found}


def without_choices(config: Mapping[str, Any]) -> dict[str, Any]:
    """What results depend on."""
    return {key: value for key, value in config.items() if key != KEY}


def option(config: Mapping[str, Any], group: str) -> str:
    """The name of what was chosen from a group; of a configuration without choices, the module of its `_target_`."""
    found = config.get(KEY, {}).get(group)
    return str(found) if found is not None else str(config[group]["_target_"]).rsplit(".", 2)[-2]


def _at(config: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    node: Any = config
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _short(target: Any) -> str:
    return ".".join(str(target).split(".")[-2:])
