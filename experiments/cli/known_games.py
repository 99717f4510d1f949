"""The games that there are, by name: those of `conf/game/` and of the folders that a user names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.cli.options import CONF
from experiments.cli.roles import component
from games.game import Game


def known_games(folders: Sequence[Path] = (), notify: Callable[[str], None] | None = None) -> dict[str, Game]:
    """Every game with its default settings; where two have one name, the first is used, ours before the `folders`'.

    They are built from configuration that the user composes, never from a record. One that cannot be built is named to
    `notify`, and left out.
    """
    from omegaconf import OmegaConf

    found: dict[str, Game] = {}
    for folder in (CONF, *folders):
        for path in sorted((folder / "game").glob("*.yaml")):
            try:
                node: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
                game = component({key: value for key, value in node.items() if key != "defaults"}, "game")
                found.setdefault(game.name, game)
            except Exception as error:
                if notify is not None:
                    notify(f"The game of {path} is left out: {error}")
    return found
