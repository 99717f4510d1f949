"""The figures of a game as files, PNG and PDF."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from data.figure_style import our_style
from data.paths import reason

if TYPE_CHECKING:
    from games.game import Drawing

log = logging.getLogger(__name__)


def draw(drawings: Iterable[Drawing], folder: Path) -> dict[str, Path]:
    """Write figures, which are drawn one at a time; returns the PNG files by name.

    Where that fails there are none, and a warning: the game was played.
    """
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports every glyph of a PDF at level INFO
    made = {}
    try:
        with our_style():
            for drawing in drawings:
                folder.mkdir(parents=True, exist_ok=True)
                made[drawing.name] = folder / f"{drawing.name}.png"
                drawing.figure.savefig(made[drawing.name])
                drawing.figure.savefig(folder / f"{drawing.name}.pdf", metadata={"CreationDate": None})
    except Exception as error:
        failed = "The figures could not be drawn (%s: %s); the result is complete, and needs none."
        log.warning(failed, type(error).__name__, reason(error))
        log.debug("", exc_info=True)
        return {}
    return made
