"""The numbers of the page as compact columns: ten thousand games are a few megabytes and a moment to read."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from experiments.report_page.columns import METRICS
from experiments.report_page.pool import Pooled

if TYPE_CHECKING:
    from pathlib import Path

    from pandas import Series

# the overrides that play the game of a record's path again, without its seed
Overrides = Callable[[str], Sequence[str]]
PROGRAM = "python experiments/run.py"
LABELS = ("attack", "access", "procedure", "defense", "data", "model", "mode")


def cells(pooled: Pooled, overrides: Overrides, most: int | None = None) -> dict[str, Any]:
    """The first `most` cells (all, without it): per cell its names, seeds and commands, per row its numbers."""
    rows = pooled.rows.rename(columns={"defense": "kind", "defense_name": "defense"})
    rows = rows if most is None else rows[rows["cell"] < most]
    kept = pooled.games[pooled.games["cell"].isin(rows["cell"])]
    first = rows.drop_duplicates("cell").set_index("cell").sort_index()
    games = kept.drop_duplicates("digest").sort_values("seed", kind="stable").groupby("cell", sort=True)
    seeds = [sorted({int(seed) for seed in each}) for each in games["seed"].agg(list)]
    words = [list(overrides(str(path))) for path in games["path"].first()]
    commands = [command(each, own) for each, own in zip(words, seeds, strict=True)]
    numbers = {c.key: _numbers(rows[c.key], c.percent) for c in METRICS}
    ends = {f"{c.key}_{end}": _numbers(rows[f"{c.key}_{end}"], c.percent) for c in METRICS for end in ("low", "high")}
    return {
        "labels": {**{name: _words(first[name]) for name in LABELS}, "overrides": words, "command": commands,
                   "seeds": [ranges(each) for each in seeds]},
        "rows": {"cell": rows["cell"].tolist(), "direction": _words(rows["direction"]), "n": rows["n"].tolist(),
                 **numbers, **ends},
    }  # fmt: skip


def games(pooled: Pooled, folder: Path, cells: int, most: int | None = None) -> dict[str, Any]:
    """The rows of the first `most` games (all, without it) of the first `cells` cells, and the paths of their records.

    The paths are as seen from `folder`.
    """
    table = pooled.games[pooled.games["cell"] < cells]
    table = table.assign(game=table["digest"].factorize()[0])
    table = table if most is None else table[table["game"] < most]
    paths = [link(str(path), folder) for path in table.drop_duplicates("digest")["path"]]
    prefix = os.path.commonprefix(paths)  # noqa: RUF071 (by character: it is only to save room)
    return {
        "paths": {"prefix": prefix, "rest": [path[len(prefix) :] for path in paths]},
        "rows": {"game": table["game"].tolist(), "cell": table["cell"].tolist(), "seed": table["seed"].tolist(),
                 "direction": _words(table["direction"]),
                 **{c.key: _numbers(table[c.key], c.percent) for c in METRICS}},
    }  # fmt: skip


def link(path: str, folder: Path) -> str:
    """The relative address of `path` for a page in `folder`; it always begins with a dot, never with a scheme."""
    relative = os.path.relpath(path, folder).replace(os.sep, "/")
    return quote(relative if relative.startswith("../") else f"./{relative}")


def _numbers(values: Series[float], percent: bool) -> list[float | int | None]:
    """Rounded to what can be read, whole numbers without a point, None where there is none."""
    rounded = (values * 100 if percent else values).round(3 if percent else 5)
    present = rounded.dropna()
    if len(present) and (present == present.round()).all():
        return [None if x != x else int(x) for x in rounded.tolist()]
    return [None if x != x else x for x in rounded.tolist()]


def _words(values: Series[Any]) -> dict[str, list[Any]]:
    """Few words that come often: the words, and the number of the word at each place."""
    codes, levels = values.factorize()
    return {"levels": [str(level) for level in levels], "codes": codes.tolist()}


def command(overrides: Sequence[str], seeds: Sequence[int]) -> str:
    """The line for a shell that plays these sorted seeds; several of them are a sweep."""
    words = list(overrides)
    if len(seeds) == 1:
        return shlex.join([*PROGRAM.split(), *words, *([f"seed={seeds[0]}"] if seeds[0] else [])])
    together = seeds[-1] - seeds[0] + 1 == len(seeds)
    swept = f"range({seeds[0]},{seeds[-1] + 1})" if together else ",".join(map(str, seeds))
    return shlex.join([*PROGRAM.split(), "-m", *words, f"seed={swept}"])


def ranges(seeds: Sequence[int]) -> str:
    """`0-4, 7` for sorted whole numbers."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def filled(make: Callable[[int | None], str], total: int, room: int) -> tuple[str, int]:
    """`make(None)` if it takes at most `room` characters, else `make(k)` with about the largest k that does; and k."""
    whole, k = make(None), total
    while len(whole) > room and k > 0:
        k = min(k - 1, int(k * max(room, 0) / len(whole) * 0.98))
        whole = make(k)
    return whole, k
