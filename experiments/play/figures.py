"""The figures of a game as files, PNG and PDF, in one style whatever the user's settings of matplotlib are."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.paths import reason

if TYPE_CHECKING:
    from data.examples import Data
    from games.game import Game, Record

log = logging.getLogger(__name__)
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "savefig.dpi": 200}
KEPT = ("backend", "backend_fallback", "toolbar")  # what concerns windows, and would look for a display


def draw(game: Game, records: Sequence[Record], data: Data | None, folder: Path) -> dict[str, Path]:
    """Write every figure that the records support; returns the PNG files by name.

    Where that fails there are none, and a warning: the game was played.
    """
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports every glyph of a PDF at level INFO
    made = {}
    try:
        with our_style():
            for drawing in game.figures(records, data):
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


@contextmanager
def our_style() -> Iterator[None]:
    """Matplotlib with its own defaults and our style, whatever the user's settings and environment say.

    Nothing here needs pyplot, and so no backend: figures are drawn for files only.
    """
    before = os.environ.pop("MPLBACKEND", None)  # matplotlib would refuse to be imported with one that it lacks
    try:
        import matplotlib
    finally:
        if before is not None:
            os.environ["MPLBACKEND"] = before
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)
        ours: dict[Any, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if k not in KEPT} | STYLE
        matplotlib.rcParams.update(ours)
        yield
