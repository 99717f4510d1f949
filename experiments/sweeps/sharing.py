"""Combinations of options from few compositions: groups that have nothing to do with each other are composed apart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.options import written

if TYPE_CHECKING:
    from omegaconf import DictConfig

ANY = "*"  # in place of the keys that an option changes, where its file does not tell
Composed = tuple["DictConfig", Mapping[str, Any]]  # a configuration, and what was chosen from each group


@dataclass(frozen=True)
class Shared:
    """Compositions of overrides by key, `made` so far; those that `apart` does not name are as in `first` in all.

    `apart` are groups in lists that change different top-level keys of the configuration, with these keys.
    """

    compose: Callable[[Sequence[str]], Composed]
    first: Mapping[str, str]
    made: dict[tuple[str, ...], Composed]
    apart: Sequence[tuple[Sequence[str], set[str]]]

    def of(self, chosen: Mapping[str, str]) -> Composed:
        """The composition of the overrides `chosen`."""
        if len(self.apart) < 2:
            return self._made(chosen)
        cfg, choices = copy.deepcopy(self._made(self.first)[0]), dict(self._made(self.first)[1])
        for groups, keys in self.apart:
            own = {group: chosen[group] for group in groups if group in chosen}
            words = {key: text for key, text in {**self.first, **own}.items() if key in own or key not in groups}
            part, named = self._made(words)
            for key in keys & part.keys():
                cfg[key] = part[key]
            choices = {group: name for group, name in choices.items() if _top(group) not in keys}
            choices |= {group: name for group, name in named.items() if _top(group) in keys}
        return cfg, choices

    def _made(self, overrides: Mapping[str, str]) -> Composed:
        words = tuple(overrides.values())
        if words not in self.made:
            self.made[words] = self.compose(words)
        return self.made[words]


def apart(
    choices: Mapping[str, Sequence[str]], typed: Collection[str], folders: Sequence[Path]
) -> list[tuple[list[str], set[str]]]:
    """Groups of `choices` (overrides by group) in lists that change different top-level keys, with these keys.

    What an option chooses from a group among those that are `typed` counts for nothing.
    """
    found: list[tuple[list[str], set[str]]] = []
    for group, overrides in choices.items():
        keys = set[str]().union(*(_reach(group, text.partition("=")[2], typed, folders) for text in overrides))
        met = [each for each in found if each[1] & keys or ANY in each[1] | keys]
        groups = [name for each in met for name in each[0]]
        found = [each for each in found if each not in met] + [([*groups, group], keys.union(*(k for _, k in met)))]
    return found


def _top(group: str) -> str:
    """The top-level key where an option of `group` is: its first part, or that of the package of `group@package`."""
    place, _, package = group.partition("@")
    return (package.removeprefix("_global_.") or place.strip("/")).replace("/", ".").partition(".")[0]


def _reach(group: str, name: str, typed: Collection[str], folders: Sequence[Path]) -> set[str]:
    """The top-level keys of a configuration that an option can change, by its file and those that this one names."""
    file = next((path for folder in folders if (path := folder / group / f"{name}.yaml").is_file()), None)
    if file is None or "@package" in file.read_text(encoding="utf-8"):
        return {ANY}
    found = {_top(group)}
    for entry in written(file).get("defaults", []):
        for place, chosen in entry.items() if isinstance(entry, dict) else {str(entry): None}.items():
            *how, inner = str(place).split()
            at = inner.partition("@")[0].strip("/")
            if how == ["override"] and _top(inner) == _top(at):  # of a group elsewhere
                found |= set() if at in typed else _reach(at, str(chosen), typed, folders)
            elif inner != "_self_":
                found |= {ANY} if how or "@" in inner else _reach(f"{group}/{inner}", str(chosen), typed, folders)
    return found
