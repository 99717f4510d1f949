"""The options of a configuration: which files and keys there are, and whether those are the ones that a user means."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.cli.plugins import plugins

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).resolve().parents[2] / "conf"  # our own
OPEN = "?"  # in place of the value of a group from which nothing need be chosen
PRESETS = "experiment"  # the group of options that set values elsewhere
LIKE = 0.7  # how much alike two names must be for one to be meant by the other
TYPES: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)), int: ("a whole number", (int,)), float: ("a number", (int, float)),
}  # fmt: skip
log = logging.getLogger(__name__)


def option_files(group: str, typed: Sequence[Path] = ()) -> dict[str, Path]:
    """The options of a group by name, the first of a name counting: ours, those of `--config-dir`, of plug-ins."""
    found: dict[str, Path] = {}
    for folder in (CONF, *typed, *plugins()):
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


def defaults(file: Path) -> list[tuple[str, Any]]:
    """The groups in the defaults list of a file, as written there, with what is chosen from each."""
    listed = written(file).get("defaults", [])
    return [(str(group), chosen) for each in listed if isinstance(each, dict) for group, chosen in each.items()]


def check_presets(overrides: Iterable[str], folders: Sequence[Path]) -> None:
    """Raise UserError for a preset among `overrides` with a `hydra:` that says nothing, at which Hydra breaks."""
    for text in overrides:
        group, _, name = text.lstrip("+").partition("=")
        file = option_files(PRESETS, folders).get(name) if group == PRESETS else None
        if file is not None and not isinstance(written(file).get("hydra", {}), dict):
            raise UserError(f"{file}: its `hydra:` holds nothing; write below it what it is to set, or leave it out.")


def known_keys(folder: Path, name: str) -> dict[str, Any]:
    """The top-level keys of the config `folder/name.yaml`: its own with their values, its groups with None.

    A group whose default is null has OPEN: it may be absent, or stand for what it sets elsewhere (a preset).
    """
    file = folder / f"{name}.yaml"
    keys = written(file).copy()
    for other in keys.pop("defaults", []):
        if isinstance(other, str) and other != "_self_":
            keys |= known_keys(folder, other)
    for group, chosen in defaults(file):
        place, _, package = group.split()[-1].partition("@")  # without `optional` or `override`
        keys[(package or place).replace("/", ".").partition(".")[0]] = OPEN if chosen is None else None
    return {key: value for key, value in keys.items() if key not in ("hydra", "_global_", "_here_")}


def check_keys(cfg: Mapping[Any, Any], schema: Mapping[str, Any], where: str = "") -> None:
    """Compare a composed config with the `schema` that `known_keys` gives; `+key=value` adds keys that nothing reads.

    Mappings of the schema are compared key by key, unless they are empty or built from a `_target_` (whose class checks
    its own options). Where the schema has a truth value or a number, the config must have one too. Raises UserError for
    an unknown key, a missing key, or a value of the wrong type.
    """
    for key, value in cfg.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in schema:
            raise UserError(no_such_option(path, schema))
        default = schema[key]
        if path == PRESETS and value is not None:
            raise UserError(f"{path}: what its YAML sets is read by nothing; begin it with `# @package _global_`.")
        wanted, kinds = TYPES.get(type(default), ("", ()))
        if isinstance(default, dict) and default and "_target_" not in default:
            if not isinstance(value, Mapping):
                raise UserError(f"{path} has the options {', '.join(default)}; set one of them, not {path} itself.")
            check_keys(value, default, path)
        elif kinds and type(value) not in kinds:
            raise UserError(f"{path} must be {wanted}, got {value!r}.")
    for key in {key for key, value in schema.items() if value != OPEN} - cfg.keys():
        raise UserError(f"{f'{where}.' if where else ''}{key} was removed, and a game needs it.")


def no_such_option(path: str, known: Iterable[str], elsewhere: Sequence[str] = (), typed: str = "") -> str:
    """The sentence for the key `path`, which is not among the `known` keys of its mapping: the nearest, or all.

    Where one of the whole paths `elsewhere` ends in what was `typed`, or is in the same component and ends in its name,
    that is what was meant.
    """
    outer, _, name = path.replace("/", ".").rpartition(".")
    known = sorted(known)
    within = f"{outer.partition('.')[0]}." if outer else ""
    meant = [each for each in elsewhere if typed and each.endswith(f".{typed}")]
    meant = meant or [each for each in elsewhere if each.startswith(within) and each.endswith(f".{name}")]
    near = difflib.get_close_matches(name, known, n=1, cutoff=LIKE)
    meant = meant[:3] or [".".join(filter(None, (outer, each))) for each in near]
    if meant:
        return f"There is no option {typed or path!r}; did you mean {' or '.join(map(repr, meant))}?"
    return f"There is no option {path!r}" + (f"; known are {', '.join(known)}." if known else f"; {outer} takes none.")


def search_path(folders: Sequence[Path]) -> list[str]:
    """The override by which Hydra finds options in further folders, where there are any."""
    places = [quoted(f"file://{folder.resolve()}") for folder in folders]
    return [f"hydra.searchpath=[{','.join(places)}]"] if places else []


def quoted(text: str) -> str:
    """A value for Hydra's command line, whatever characters it has: backslashes escape before a quote only."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + (m[2] and "\\'"), text) + "'"


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

    def check(self, cfg: Mapping[str, Any], choices: Mapping[str, Any], config_name: str) -> None:
        """Make sure that what was chosen is what is used, in a composed configuration with its `choices` by group.

        An option of a plug-in that has the name of one before it is a warning: whoever installed it did not choose it.

        Raises UserError for an option of the user's whose name another one has, and for the name of an option that was
        given as a value (`attack.functional=NAME` in place of `attack/functional=NAME`).
        """
        chosen = {config_name, *(f"{group.partition('@')[0]}/{name}" for group, name in choices.items())}
        for name in sorted(chosen):
            files = [file for folder in self.folders if (file := folder / f"{name}.yaml").is_file()]
            other = next((file for file in files[1:] if file.read_bytes() != files[0].read_bytes()), None)
            if other and not _of_plugin(other, files[0]):
                raise UserError(f"{other} is not used, since {files[0]} has the same name; give it another name.")
        for group, name in choices.items():
            names = self.groups.get(group.partition("@")[0], ())
            if names and name not in (None, *names) and not group.startswith("hydra/"):
                raise UserError(f"There is no {group}={name!s:.60}; choose one of {', '.join(names)}.")
        for group, names in self.groups.items():
            node: Any = cfg
            for key in group.split("/"):
                node = node.get(key) if isinstance(node, Mapping) else None
            if "/" in group and isinstance(node, str):
                raise UserError(
                    f"{group.replace('/', '.')}={node} sets a value where a component is needed; write {group}={node} "
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
    """What Hydra composes, checked against the `options`, without its own part, and what was chosen from each group."""
    from hydra import compose
    from omegaconf import open_dict

    cfg = compose(config_name, [*overrides], return_hydra_config=True)
    chosen = dict(cfg.hydra.runtime.choices)
    options.check(cfg, chosen, config_name)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, chosen
