"""One style for all figures, whatever the user's settings of matplotlib are."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "savefig.dpi": 200}
KEPT = ("backend", "backend_fallback", "toolbar")  # what concerns windows, and would look for a display


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
