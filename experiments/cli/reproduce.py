"""The shortest command that gives a configuration: what a report prints beside every number.

A record is data: nothing that it names is imported or built here, it is only compared with YAML files, ours and those
of plug-ins.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from data.naming import AUTOMATIC
from experiments.cli.options import CONF, defaults, option_files, quoted, written
from experiments.listing.row import NOT_RECORDED

PROGRAM = "python experiments/run.py"
PLAIN = re.compile(r"[A-Za-z_/][\w./\-]*")  # text that the grammar reads as text, unquoted
WORDS = ("true", "false", "null", "nan", "inf")  # text that the grammar reads as something else
LEFT_OUT = frozenset({*NOT_RECORDED, "defaults", "seed", "repetitions", "device", "threads"})


def typed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a game's record as it was typed: with `auto` where that had been settled."""
    config = dict(record["config"])
    for place in record.get(AUTOMATIC, ()):
        group, _, key = str(place).partition(".")
        config[group] = {**config[group], key: "auto"}
    return config


def line(words: Iterable[str], seeds: Iterable[int]) -> str:
    """The line for a shell that plays these seeds with these overrides; several are a sweep, none are left to type."""
    found = sorted(set(seeds))
    if len(found) > 1:
        together = found[-1] - found[0] + 1 == len(found)
        swept = f"range({found[0]},{found[-1] + 1})" if together else ",".join(map(str, found))
        return f"{PROGRAM} -m {shlex.join([*words, f'seed={swept}'])}"
    return shlex.join([*PROGRAM.split(), *words, *(f"seed={seed}" for seed in found if seed)])


def overrides(config: Mapping[str, Any]) -> Iterator[str]:
    """The overrides that lead from the defaults of `conf/run.yaml` to `config`: groups first, then values.

    What differs from the defaults of `conf/` is set key by key; an option is found by its `_target_`. Values that
    belong to the machine (device, threads, store), and the seed, are left out. A component that `conf/` does not have
    is named by its `_target_`.
    """
    usual = dict(defaults(CONF / "run.yaml"))
    groups = [group for group in usual if group in config]  # a preset is what it sets, and no part of it
    chosen: dict[str, str] = {}
    values: list[str] = []
    for group in reversed(groups):  # what comes later brings what stands before: an attack its game, a game its defense
        node = config[group]
        name = _nearest(group, node, usual[group])
        chosen |= {group: name} if name != usual[group] else {}
        base = dict(_options(group)[name])
        for inner, named in defaults(option_files(group)[name]):  # inside it, or with `override` beside it
            if inner.startswith("override "):
                usual[inner.removeprefix("override ").strip("/").partition("@")[0]] = named
                continue
            path = f"{group}/{inner}"
            option = _nearest(path, node.get(inner, {}), named)
            chosen |= {path: option} if option != named else {}
            base[inner] = _options(path).get(option, {})
        values = [*_changes(group, node, base), *values]
    for key, default in written(CONF / "run.yaml").items():
        if key in config and key not in LEFT_OUT:
            values += _changes(key, config[key], default)
    yield from (f"{path}={name}" for group in groups for path, name in chosen.items() if path.split("/")[0] == group)
    yield from values


def _changes(path: str, value: Any, default: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and isinstance(default, Mapping):
        for key, inner in value.items():
            if key not in default:
                yield f"+{path}.{key}={_written(inner)}"
            else:
                yield from _changes(f"{path}.{key}", inner, default[key])
        if value.get("_target_") != default.get("_target_"):  # another class has no such options
            yield from (f"~{path}.{key}" for key in default if key not in value)
    elif value != default:
        yield f"{path}={_written(value)}"


def _written(value: Any) -> str:
    """A value in the grammar of overrides."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_written(inner) for inner in value) + "]"
    if isinstance(value, str) and (value.lower() in WORDS or not PLAIN.fullmatch(value)):
        return _quoted(value)
    return str(value)


def _quoted(text: str) -> str:
    """Text in quotes, which reads back as it is: no part of a record is an interpolation of the reader's settings."""
    return quoted(re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", text))


def _nearest(group: str, node: Mapping[str, Any], usual: str) -> str:
    """The option of a group that differs least from `node`, its `_target_` first; of several `usual`, if it is one."""

    def distance(name: str) -> tuple[bool, int, bool]:
        option = _options(group)[name]
        plain = {key for key in node.keys() | option.keys() if not isinstance(node.get(key), Mapping)}
        differing = sum(node.get(key, "") != option.get(key, "") for key in plain)
        return node.get("_target_") != option.get("_target_"), differing, name != usual

    return min(_options(group), key=distance)


@cache
def _options(group: str) -> dict[str, dict[str, Any]]:
    """The options of a group by name, as their YAML files have them, without the defaults lists."""
    nodes = {name: written(path) for name, path in option_files(group).items()}
    plain = {name: {key: value for key, value in node.items() if key != "defaults"} for name, node in nodes.items()}
    return {name: node for name, node in plain.items() if "_target_" in node}
