"""The options of a configuration: which files they are, and whether those are the ones that a user means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).resolve().parents[2] / "conf"  # our own


@dataclass(frozen=True)
class Options:
    """The YAML files of the `folders`, the toolkit's first: where two have one name, the first is used."""

    folders: tuple[Path, ...]

    @cached_property
    def groups(self) -> dict[str, set[str]]:
        """The names of the options of every group."""
        found: dict[str, set[str]] = {}
        for folder in self.folders:
            for path in folder.glob("*/**/*.yaml"):
                found.setdefault(path.parent.relative_to(folder).as_posix(), set()).add(path.stem)
        return found

    @cached_property
    def unused(self) -> dict[str, tuple[Path, Path]]:
        """Files that a file of another content and the same name stands before: `group/name` -> (unused, used)."""
        first: dict[str, Path] = {}
        found: dict[str, tuple[Path, Path]] = {}
        for folder in self.folders:
            for path in sorted(folder.rglob("*.yaml")):
                name = path.relative_to(folder).with_suffix("").as_posix()
                used = first.setdefault(name, path)
                if used != path and used.resolve() != path.resolve() and used.read_bytes() != path.read_bytes():
                    found.setdefault(name, (path, used))
        return found

    def check(self, cfg: Mapping[str, Any], choices: Mapping[str, Any], config_name: str) -> None:
        """Make sure that what was chosen is what is used, in a composed configuration with its `choices` by group.

        Raises:
            UserError: for an option of the user's whose name another one has, and for the name of an option that was
                given as a value (`attack.functional=NAME` in place of `attack/functional=NAME`).
        """
        chosen = {config_name, *(f"{group.partition('@')[0]}/{name}" for group, name in choices.items())}
        for name in sorted(chosen & self.unused.keys()):
            path, used = self.unused[name]
            raise UserError(f"{path} is not used, since {used} has the same name; give it another name.")
        for group in sorted(self.groups):
            node = _at(cfg, group.split("/"))
            if "/" in group and isinstance(node, str):
                dotted = group.replace("/", ".")
                raise UserError(
                    f"{dotted}={node} sets a value where a component is needed; write {group}={node} "
                    f"(with a slash) to choose one of {', '.join(sorted(self.groups[group]))}."
                )


def composed(config_name: str, overrides: Sequence[str], options: Options) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration that Hydra composes, without Hydra's own part, and what was chosen from each group.

    It is checked against the `options` there are.
    """
    from hydra import compose
    from omegaconf import open_dict

    cfg = compose(config_name, [*overrides], return_hydra_config=True)
    chosen = dict(cfg.hydra.runtime.choices)
    options.check(cfg, chosen, config_name)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, chosen


def _at(node: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return node
