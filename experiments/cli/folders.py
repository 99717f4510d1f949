"""Folders of results: a new one for every run that names none, and nothing of another game's is written over."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.listing.row import NOT_RECORDED
from storage.records import jsonable

log = logging.getLogger(__name__)
ELSEWHERE = (*NOT_RECORDED, "device", "threads")  # settings that do not make another game


def new_folder(path: str) -> str:
    """Make the folder `path`, or `path-2`, `path-3`, ... where that is there already; returns what was made.

    Two processes never get the same one. A folder that cannot be made is left to whoever writes into it.
    """
    with suppress(OSError):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        for name in itertools.chain([path], (f"{path}-{number}" for number in itertools.count(2))):
            with suppress(FileExistsError):
                Path(name).mkdir()
                return name
    return path


def register() -> None:
    """Give Hydra's configurations the resolver `${new_folder:PATH}`, which makes its folder once per configuration."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True, replace=True)


def keep_other_game(folder: Path, config: Mapping[str, Any]) -> None:
    """Put the result of another game than `config` aside, where the folder holds one: `result.1.json`, `figures.1`."""
    before = _content(folder / "result.json").get("config")
    if isinstance(before, Mapping) and _game(before) != _game(jsonable(config)):
        _put_aside(folder, "result.json", "figures")


def keep_other_sweep(folder: Path, cells: Sequence[str]) -> None:
    """Put the list of another sweep aside, where the folder holds one with other cells than these: `sweep.1.json`."""
    before = _content(folder / "sweep.json").get("cells")
    names = {each.get("name") for each in before if isinstance(each, Mapping)} if isinstance(before, list) else set()
    if not names <= set(cells):
        _put_aside(folder, "sweep.json")


def _content(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        content = json.loads(file.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def _game(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ELSEWHERE}


def _put_aside(folder: Path, *names: str) -> None:
    paths = [folder / name for name in names]
    numbered = ([path.with_stem(f"{path.stem}.{number}") for path in paths] for number in itertools.count(1))
    asides = next(each for each in numbered if not any(path.exists() for path in each))
    for path, aside in zip(paths, asides, strict=True):
        with suppress(FileNotFoundError):
            path.rename(aside)
    log.warning("%s is of another one, and is kept as %s.", paths[0], asides[0].name)
