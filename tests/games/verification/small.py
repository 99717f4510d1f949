"""Small verification games, played as a user plays them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.play.play import play_config

ROOT = Path(__file__).resolve().parents[3]
SMALL = ("data.train=300", "data.test=1197", "game.users=3", "game.records=10", "figures=false")


def config(folder: Path, *overrides: str, small: Sequence[str] = SMALL) -> dict[str, Any]:
    """The resolved configuration of a game that takes a second, with a store of its own."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("run", overrides=[*small, f"store.dir={folder / 'store'}", *overrides])
    resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def play(folder: Path, *overrides: str, small: Sequence[str] = SMALL) -> dict[str, Any]:
    """The record of one game."""
    [record] = play_config(config(folder, *overrides, small=small), folder / "run")["games"]
    return record
