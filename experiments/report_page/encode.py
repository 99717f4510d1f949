"""The numbers of the page as compact columns: ten thousand games are a few megabytes and a moment to read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from experiments.cli.reproduce import line
from experiments.report_page.columns import SETTINGS, in_report
from experiments.report_page.pool import Pooled

if TYPE_CHECKING:
    from pathlib import Path

    from pandas import DataFrame, Series

# the overrides that play the game of a record's path again, without its seed
Overrides = Callable[[str], Sequence[str]]


def cells(played: Sequence[Pooled], every: DataFrame, overrides: Overrides, most: int) -> dict[str, Any]:
    """The first `most` cells: their names, seeds and commands; and per game the numbers of their rows.

    `every` has the rows of all games. `command` plays every seed of a cell, `one` ends where one seed is to be typed.
    """
    kept = every[every["cell"] < most]
    first = kept.drop_duplicates("cell").set_index("cell")
    games = kept.drop_duplicates("digest").sort_values("seed", kind="stable").groupby("cell", sort=True)
    seeds = [each.tolist() for each in games["seed"].unique()]
    words = [list(overrides(str(path))) for path in games["path"].first()]
    return {
        "labels": {**{name: _words(first[name]) for name in SETTINGS}, "overrides": words,
                   "command": [line(each, own) for each, own in zip(words, seeds, strict=True)],
                   "one": [line(each, []) for each in words], "seeds": [ranges(each) for each in seeds]},
        "rows": [_pooled(each, each.rows[each.rows["cell"] < most]) for each in played],
    }  # fmt: skip


def games(played: Sequence[Pooled], every: DataFrame, folder: Path, cells: int, most: int) -> dict[str, Any]:
    """Per game the rows of the first `most` games of the first `cells` cells; and the paths of their records.

    `every` has the rows of all games. The paths are as seen from `folder`.
    """
    kept = every[every["cell"] < cells].drop_duplicates("digest")[:most]
    number = {digest: i for i, digest in enumerate(kept["digest"])}
    paths = [link(str(path), folder) for path in kept["path"]]
    prefix = os.path.commonprefix(paths)  # noqa: RUF071 (by character: it is only to save room)
    rows = []
    for each in played:
        table = each.games[each.games["digest"].isin(number)]
        rows.append(_rows(each, table.assign(record=table["digest"].map(number)), ["record", "seed"]))
    return {"paths": {"prefix": prefix, "rest": [path.removeprefix(prefix) for path in paths]}, "rows": rows}


def link(path: str, folder: Path) -> str:
    """The relative address of `path` for a page in `folder`; it always begins with a dot, never with a scheme."""
    relative = os.path.relpath(path, folder).replace(os.sep, "/")
    return quote(relative if relative.startswith("../") else f"./{relative}")


def _pooled(pooled: Pooled, table: DataFrame) -> dict[str, Any]:
    """Rows with intervals; `METRIC_n` only of a metric that some row does not have in all its games."""
    fewer = {f"{metric.name}_n": table[f"{metric.name}_n"] for metric in in_report(pooled.game)}
    own = {name: values.tolist() for name, values in fewer.items() if values.between(1, table["n"] - 1).any()}
    return _rows(pooled, table, ["n"], ("", "_low", "_high")) | own


def _rows(pooled: Pooled, table: DataFrame, plain: Sequence[str], ends: Sequence[str] = ("",)) -> dict[str, Any]:
    numbers = {
        f"{metric.name}{end}": _numbers(table[f"{metric.name}{end}"] * metric.factor, metric.scale == "plain")
        for metric in in_report(pooled.game)
        for end in ends
    }
    return {name: table[name].tolist() for name in ("cell", *plain)} | {"part": _words(table["part"])} | numbers


def _numbers(values: Series[float], plain: bool) -> list[float | int | None]:
    """Rounded to what can be read, whole numbers without a point, None where there is none."""
    rounded = values.round(5 if plain else 3)
    whole = (rounded.dropna() % 1 == 0).all()
    return [None if x != x else int(x) if whole else x for x in rounded.tolist()]


def _words(values: Series[Any]) -> dict[str, list[Any]]:
    """Few words that come often: the words, and the number of the word at each place."""
    codes, levels = values.factorize()
    return {"levels": [str(level) for level in levels], "codes": codes.tolist()}


def ranges(seeds: Sequence[int]) -> str:
    """`0-4, 7` for sorted whole numbers."""
    runs = [[seed for _, seed in run] for _, run in groupby(enumerate(seeds), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def filled(make: Callable[[int], str], total: int, room: int) -> tuple[str, int]:
    """`make(total)` if it takes at most `room` characters, else `make(k)` with about the largest k that does; and k."""
    text, k = make(total), total
    while len(text) > room and k > 0:
        k = min(k - 1, int(k * max(room, 0) / len(text) * 0.98))
        text = make(k)
    return text, k
