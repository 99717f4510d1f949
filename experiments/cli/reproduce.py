"""The shortest command that gives a configuration: what a report prints beside every number.

A record is data: nothing that it names is imported or built here, it is only compared with the YAML files of `conf/`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from data.naming import AUTOMATIC
from experiments.cli.options import CONF
from experiments.storage.row import NOT_RECORDED

PROGRAM = "python experiments/run.py"
PLAIN = re.compile(r"[A-Za-z_/][\w./\-]*")  # text that the grammar reads as text, unquoted
WORDS = ("true", "false", "null", "nan", "inf")  # text that the grammar reads as something else
LEFT_OUT = frozenset({*NOT_RECORDED, "seed", "repetitions", "device", "threads"})


def typed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a game's record as it was typed: with `auto` where that had been settled."""
    config = dict(record["config"])
    for place in record.get(AUTOMATIC, ()):
        group, _, key = str(place).partition(".")
        config[group] = {**config[group], key: "auto"}
    return config


def command(config: Mapping[str, Any], seeds: int | list[int] | None = None) -> str:
    """The shortest `python experiments/run.py ...` line that plays `config`.

    Args:
        config: a resolved configuration, as `typed` gives that of a record.
        seeds: the seed to play, several of them (as a sweep), or None for the one in `config`.

    What differs from the defaults of `conf/` is set key by key; an option is found by its `_target_`. Values that
    belong to the machine (device, threads, store) are left out. A component that `conf/` does not have is named by its
    `_target_`.
    """
    return line(overrides(config), [config["seed"]] if seeds is None else [seeds] if isinstance(seeds, int) else seeds)


def line(words: Iterable[str], seeds: Iterable[int]) -> str:
    """The line for a shell that plays these seeds with these overrides; several are a sweep, none are left to type."""
    found = sorted(set(seeds))
    if len(found) > 1:
        together = found[-1] - found[0] + 1 == len(found)
        swept = f"range({found[0]},{found[-1] + 1})" if together else ",".join(map(str, found))
        return f"{PROGRAM} -m {shlex.join([*words, f'seed={swept}'])}"
    return " ".join([PROGRAM, *map(shlex.quote, [*words, *(f"seed={seed}" for seed in found if seed)])])


def overrides(config: Mapping[str, Any]) -> Iterator[str]:
    """The overrides that lead from the defaults of `conf/run.yaml` to `config`: groups first, then values."""
    chosen: list[str] = []
    values: list[str] = []
    for group, name in _groups().items():
        default = _options(group)[name]
        best = _nearest(group, config[group]) or name
        if _distance(config[group], default) <= _distance(config[group], _options(group)[best]):
            best = name
        chosen += [f"{group}={best}"] if best != name else []
        base = dict(_options(group)[best])
        for inner, usual in _nested(group, best).items():
            path, node = f"{group}/{inner}", config[group].get(inner, {})
            option = _nearest(path, node) or usual
            chosen += [f"{path}={option}"] if option != usual else []
            base[inner] = _options(path)[option]
        values += _changes(group, config[group], base)
    for key, default in _own().items():
        if key in config and key not in LEFT_OUT:
            values += _changes(key, config[key], default)
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
    if isinstance(value, str) and (value.lower() in WORDS or not PLAIN.fullmatch(value)):
        return _quoted(value)
    return str(value)


def _quoted(text: str) -> str:
    """Text in quotes, which reads back as it is: no part of a record is an interpolation of the reader's settings."""
    text = re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", text)
    text = re.sub(r"(\\*)'", lambda found: f"{found[1] * 2}\\'", text)  # a backslash counts only before a quote
    return "'" + re.sub(r"(\\+)$", lambda found: found[1] * 2, text) + "'"


def _nearest(group: str, node: Mapping[str, Any]) -> str | None:
    """The option of a group that has the `_target_` of `node` and differs least from it; None where none has it."""
    same = {name: found for name, found in _options(group).items() if found["_target_"] == node.get("_target_")}
    return min(same, key=lambda name: _distance(node, same[name]), default=None)


def _distance(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[bool, int]:
    """How far two options are apart: whether their `_target_` differs, and in how many plain values they do."""
    names = {name for name in first.keys() | second.keys() if not isinstance(first.get(name), Mapping)}
    differing = sum(first.get(name, "") != second.get(name, "") for name in names)
    return first.get("_target_") != second.get("_target_"), differing


@cache
def _yaml(path: Path) -> dict[str, Any]:
    """A file of the configuration as it is written, `defaults` included."""
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def _own() -> dict[str, Any]:
    """The values of `conf/run.yaml` itself."""
    return {key: value for key, value in _yaml(CONF / "run.yaml").items() if key not in ("defaults", "hydra")}


def _groups() -> dict[str, str]:
    """The groups of a game and their defaults."""
    listed = [each for each in _yaml(CONF / "run.yaml")["defaults"] if isinstance(each, dict)]
    return {group: name for each in listed for group, name in each.items() if (CONF / group).is_dir()}


def _nested(group: str, name: str) -> dict[str, str]:
    """The groups inside an option, such as `functional` in some attacks, and their defaults."""
    listed = _yaml(CONF / group / f"{name}.yaml").get("defaults", [])
    return {inner: usual for each in listed if isinstance(each, dict) for inner, usual in each.items()}


@cache
def _options(group: str) -> dict[str, dict[str, Any]]:
    """The options of a group by name, as their YAML files have them."""
    found = {path.stem: _yaml(path) for path in sorted((CONF / group).glob("*.yaml"))}
    return {
        name: {key: value for key, value in node.items() if key != "defaults"}
        for name, node in found.items()
        if "_target_" in node
    }
