"""The games that there are, by name: ours, those of the folders that a user names, and those of plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.cli.options import option_files
from experiments.cli.roles import component
from games.game import Game


def known_games(folders: Sequence[Path] = (), notify: Callable[[str], None] | None = None) -> dict[str, Game]:
    """Every game with its default settings; where two have one name, the first is used, ours before the others'.

    They are built from configuration that the user composes, never from a record. One that cannot be built is named to
    `notify`, and left out.
    """
    from omegaconf import OmegaConf

    found: dict[str, Game] = {}
    for path in option_files("game", folders).values():
        try:
            node: Any = OmegaConf.load(path)
            node.pop("defaults", None)
            game = component(OmegaConf.to_container(node, resolve=True), "game")
            found.setdefault(game.name, game)
        except Exception as error:
            if notify is not None:
                notify(f"The game of {path} is left out: {error}")
    return found
