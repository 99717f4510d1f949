"""The options of a configuration: which files they are, and whether those are the ones that a user means."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.cli.plugins import plugins

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).resolve().parents[2] / "conf"  # our own
log = logging.getLogger(__name__)


def config_folders(typed: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Where options are found, the first of a name counting: ours, those of `--config-dir`, those of plug-ins."""
    return tuple(dict.fromkeys((CONF, *typed, *plugins())))


def option_files(group: str, typed: Sequence[Path] = ()) -> dict[str, Path]:
    """The options of a group by name."""
    found: dict[str, Path] = {}
    for folder in config_folders(typed):
        for path in sorted((folder / group).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


@cache
def written(path: Path) -> dict[str, Any]:
    """A file of the configuration as it is written, `defaults` included; nothing, where it is no mapping in YAML."""
    from omegaconf import OmegaConf

    try:
        node = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception:  # said where it is chosen
        return {}
    return {str(key): value for key, value in node.items()} if isinstance(node, dict) else {}


def search_path(folders: Sequence[Path]) -> list[str]:
    """The override by which Hydra finds options in further folders, where there are any."""
    places = [f'"file://{folder.resolve()}"' for folder in folders]
    return [f"hydra.searchpath=[{','.join(places)}]"] if places else []


@dataclass(frozen=True)
class Options:
    """The YAML files of the `folders`, the toolkit's first: where two have one name, the first is used."""

    folders: tuple[Path, ...]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """The names of the options of every group, all sorted."""
        files = {path.relative_to(folder) for folder in self.folders for path in folder.glob("*/**/*.yaml")}
        groups = sorted({path.parent for path in files}, key=str)
        return {group.as_posix(): sorted(path.stem for path in files if path.parent == group) for group in groups}

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

        An option of a plug-in that has the name of one before it is a warning: whoever installed it did not choose it.

        Raises:
            UserError: for an option of the user's whose name another one has, and for the name of an option that was
                given as a value (`attack.functional=NAME` in place of `attack/functional=NAME`).
        """
        chosen = {config_name, *(f"{group.partition('@')[0]}/{name}" for group, name in choices.items())}
        for name in sorted(chosen & self.unused.keys()):
            path, used = self.unused[name]
            if not _of_plugin(path, used):
                raise UserError(f"{path} is not used, since {used} has the same name; give it another name.")
        for group, names in self.groups.items():
            node = _at(cfg, group.split("/"))
            if "/" in group and isinstance(node, str):
                dotted = group.replace("/", ".")
                raise UserError(
                    f"{dotted}={node} sets a value where a component is needed; write {group}={node} "
                    f"(with a slash) to choose one of {', '.join(names)}."
                )


@cache
def _of_plugin(path: Path, used: Path) -> bool:
    """Whether a file that is not used is a plug-in's, which is then said once."""
    for folder, name in plugins().items():
        if path.resolve().is_relative_to(folder):
            log.warning("%s of the plug-in %s is not used, since %s has the same name.", path, name, used)
            return True
    return False


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
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
