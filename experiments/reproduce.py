"""The shortest command that gives a configuration: what a report prints beside every number."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from experiments.cells import CONF
from experiments.game import NOT_RECORDED

PROGRAM = "python experiments/run.py"
PLAIN = re.compile(r"[A-Za-z_/][\w./\-]*")  # text that the grammar reads as text, unquoted
LEFT_OUT = frozenset({*NOT_RECORDED, "seed", "repetitions", "device", "threads"})


def command(config: Mapping[str, Any], seeds: int | list[int] | None = None) -> str:
    """The shortest `python experiments/run.py ...` line that plays `config`.

    Args:
        config: a resolved configuration, as a record keeps it.
        seeds: the seed to play, several of them (as a sweep), or None for the one in `config`.

    What differs from the defaults of `conf/` is set key by key; an option is found by its `_target_`. Values that
    belong to the machine (device, threads, store) are left out. A component that `conf/` does not have is named by its
    `_target_`.
    """
    words = list(overrides(config))
    found = [config["seed"]] if seeds is None else [seeds] if isinstance(seeds, int) else sorted(set(seeds))
    if len(found) > 1:
        return " ".join([f"{PROGRAM} -m", *map(shlex.quote, [*words, f"seed={','.join(map(str, found))}"])])
    if found != [0]:
        words.append(f"seed={found[0]}")
    return " ".join([PROGRAM, *map(shlex.quote, words)])


def overrides(config: Mapping[str, Any]) -> Iterator[str]:
    """The overrides that lead from the defaults of `conf/run.yaml` to `config`: groups first, then values."""
    chosen: list[str] = []
    values: list[str] = []
    defaults = _defaults(())
    for group in (key for key, value in defaults.items() if isinstance(value, Mapping) and "_target_" in value):
        chosen += _choice(group, config[group], defaults[group])
    base = _defaults(tuple(chosen))
    nested = config["attack"].get("functional")
    if isinstance(nested, Mapping):
        chosen += _choice("attack/functional", nested, base["attack"].get("functional", {}))
        base = _defaults(tuple(chosen))
    for key in base:
        if key in config and key not in LEFT_OUT:
            values += _changes(key, config[key], base[key])
    yield from chosen
    yield from values


def _changes(path: str, value: Any, default: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and isinstance(default, Mapping):
        for key, inner in value.items():
            if key not in default:
                yield f"+{path}.{key}={_written(inner)}"
            else:
                yield from _changes(f"{path}.{key}", inner, default[key])
    elif value != default:
        yield f"{path}={_written(value)}"


def _written(value: Any) -> str:
    """A value in the grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_written(inner) for inner in value) + "]"
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def _choice(group: str, node: Mapping[str, Any], default: Mapping[str, Any]) -> list[str]:
    """The override that chooses the option of a group which `node` is nearest to; none where that is the default."""
    options = {name: found for name, found in _options(group).items() if found["_target_"] == node["_target_"]}
    differing = {name: _distance(node, found) for name, found in options.items()}
    best = min(differing, key=lambda name: differing[name], default=None)
    same = node["_target_"] == default.get("_target_") and (best is None or _distance(node, default) <= differing[best])
    return [] if best is None or same else [f"{group}={best}"]


def _distance(first: Mapping[str, Any], second: Mapping[str, Any]) -> int:
    """Keys of two options that differ; a nested option that only one of them spells out does not count."""
    names = {name for name in first.keys() | second.keys() if not isinstance(first.get(name), Mapping)}
    return sum(first.get(name, "") != second.get(name, "") for name in names)


@cache
def _defaults(chosen: tuple[str, ...]) -> dict[str, Any]:
    """The configuration that `conf/run.yaml` gives with these options; what has no value yet is left as it is."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = OmegaConf.to_container(compose("run", list(chosen)), resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@cache
def _options(group: str) -> dict[str, dict[str, Any]]:
    """The options of a group by name, as their YAML files have them."""
    from omegaconf import OmegaConf

    found = {
        path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in sorted(Path(CONF, group).glob("*.yaml"))
    }
    return {name: node for name, node in found.items() if isinstance(node, dict) and "_target_" in node}  # type: ignore[misc]
