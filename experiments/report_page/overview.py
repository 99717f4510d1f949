"""What is in the page: counts, names, dates, versions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.report_page.columns import SETTINGS
from experiments.report_page.encode import ranges
from experiments.report_page.markup import count

if TYPE_CHECKING:
    from pandas import DataFrame

LISTED = 12  # names of one kind


def overview(games: DataFrame, filters: Sequence[str], store: str) -> dict[str, Any]:
    """The `tiles`, such as `12 games`, and the `facts` below them, each a heading and words."""
    seeds = sorted({int(seed) for seed in games["seed"]})
    numbers = {"game": games["digest"].nunique(), "cell": games["cell"].nunique(), "seed": len(seeds)}
    days = games["created"].astype(str).str[:10]
    said = {
        "seeds": ranges(seeds) if len(ranges(seeds)) < 80 else f"{seeds[0]} to {seeds[-1]}",
        "played": " to ".join(dict.fromkeys([days.min(), days.max()])), "toolkit": _listed(games, "toolkit"),
        "filter": shlex.join(filters) if filters else "none: every game of the store", "store": store,
    }  # fmt: skip
    return {
        "tiles": [count(n, noun) for noun, n in numbers.items()],
        "facts": {name: _listed(games, name) for name in SETTINGS} | said,
    }


def _listed(games: DataFrame, column: str) -> str:
    names = sorted({str(name) for name in games[column]})
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest + (f" ({len(names)})" if len(names) > 1 else "")
