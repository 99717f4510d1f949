"""Games gathered into cells: the games of one cell share every setting but the seed, and are pooled per direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from experiments.report_page.columns import METRICS
from games.request.kinds import interval, values_of_game

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame, Series

NAMES = ("data", "model", "training", "unlearning", "attack", "defense", "mode", "fresh_seeds")
NOT_SETTINGS = ("store.", "wandb.", "hydra.")


@dataclass(frozen=True, eq=False)
class Pooled:
    """`games`: one row per game and direction, with `cell` and readable names; `rows`: one per cell and direction.

    A row has `n` games, and for every metric its mean and, under `METRIC_low` and `METRIC_high`, its 95% interval over
    games. Where a seed was played more than once in a cell, only the newest game is pooled; `repeated`
    counts the others.
    """

    games: DataFrame
    rows: DataFrame
    repeated: int


def pool(frame: DataFrame) -> Pooled:
    """Gather a frame of `experiments.storage.results` (one row per game and direction) into cells."""
    games = named(frame)
    order = ["data", "model", "mode", "attack", "access", "procedure", "defense_name"]
    games = games.assign(cell=codes(games, settings(games))).sort_values(
        [*order, "cell", "seed", "direction"], kind="stable"
    )
    games = games.assign(cell=games["cell"].factorize()[0]).reset_index(drop=True)  # numbered in this order
    newest = newest_per_seed(games, ["cell", "direction"])
    keys = ["cell", "direction"]
    grouped = newest.groupby(keys, sort=False)
    rows = grouped[["attack", "access", "procedure", "defense_name", "data", "model", "mode", "goal"]].first()
    rows["n"] = grouped.size()
    for column in METRICS:
        mean, low, high, _ = mean_and_interval(newest, column.key, [newest[key] for key in keys], column.key)
        for name, found in (("", mean), ("_low", low), ("_high", high)):
            rows[f"{column.key}{name}"] = found.reindex(rows.index)
    return Pooled(games, rows.reset_index(), games["digest"].nunique() - newest["digest"].nunique())


def named(frame: DataFrame) -> DataFrame:
    """The frame with numbers as numbers and with the readable names `procedure`, `access`, `defense_name`, `who`.

    A name carries the settings in which the games of that name differ, as in `uncertainty (budget=5)`, so that games
    with different settings are never averaged as one. `defense_name` carries the score that decides, as in `influence
    (S1)`. `who` is the attack, with its access where the frame has that attack with more than one.
    """
    import numpy as np
    import pandas as pd

    games = frame.copy()
    for column in METRICS:
        values = games.get(column.key, pd.Series(np.nan, index=games.index))
        games[column.key] = pd.to_numeric(values, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    for name in ("attack", "data", "model", "mode", "direction", "defense", "goal"):
        games[name] = games[name].astype(str)
    games["access"] = _text(games, "attack.access").str.replace("_", "-")
    games["procedure"] = _qualified(games["unlearning"].astype(str), games, "unlearning")
    score = _text(games, "defense.score")
    defense = games["defense"].where(score == "", games["defense"] + " (" + score + ")")
    games["defense_name"] = _qualified(defense, games, "defense", ["defense.score"])
    games["attack"] = _qualified(games["attack"], games, "attack", ["attack.access"])
    several = games.groupby("attack")["access"].transform("nunique") > 1
    games["who"] = games["attack"].where(
        ~several | (games["access"] == ""), games["attack"] + " (" + games["access"] + ")"
    )
    return games


def _qualified(names: Series[str], games: DataFrame, group: str, shown: Sequence[str] = ()) -> Series[str]:
    """Names with the settings of `group` in which rows of one name differ; those `shown` elsewhere are left out."""
    columns = [name for name in games.columns if name.startswith(f"{group}.") and name not in shown]
    found = names.copy()
    for name, rows in games.groupby(names, sort=False):
        texts = {column: rows[column].map(_written) for column in columns}
        differing = [column for column in columns if texts[column].nunique() > 1]
        parts = [each.rpartition(".")[0] for each in differing if each.endswith("._target_") and each.count(".") > 1]
        differing = [  # of another component, say another functional, its name says enough
            each for each in differing
            if each.endswith("._target_") or not any(each.startswith(f"{part}.") for part in parts)
        ]  # fmt: skip
        for column in differing:
            key = column.removeprefix(f"{group}.").removesuffix("._target_")
            found[rows.index] = found[rows.index] + (f", {key}=" + texts[column])
        if differing:
            after = found[rows.index].str.slice(start=len(str(name)) + 2)
            found[rows.index] = str(name) + " (" + after + ")"
    return found


def _written(value: Any) -> str:
    """A setting in few words: of a component's path the class, and null for what is not set."""
    missing = value is None or (isinstance(value, float) and value != value)
    return "null" if missing else str(value).rpartition(".")[2] if str(value).count(".") > 1 else str(value)


def _text(games: DataFrame, column: str) -> Series[str]:
    import pandas as pd

    if column not in games:
        return pd.Series("", index=games.index)
    values = games[column]
    return values.where(values.notna(), "").astype(str)


def settings(games: DataFrame, without: Sequence[str] = ()) -> list[str]:
    """The columns that make a cell; `without` drops those of some parts, such as `defense`."""
    dotted = [name for name in games.columns if "." in name and not name.startswith(NOT_SETTINGS)]
    return [
        name for name in (*NAMES, *dotted) if name in games.columns and name.partition(".")[0] not in without
    ]  # fmt: skip


def codes(games: DataFrame, columns: Sequence[str]) -> ndarray[Any, Any]:
    """A number per row, the same for rows that agree in all `columns`, counted in the order of appearance."""
    import numpy as np
    import pandas as pd

    combined = np.zeros(len(games), dtype=np.int64)
    for name in columns:
        values = games[name]
        try:
            own, _ = pd.factorize(values, use_na_sentinel=False)
        except TypeError:  # a list cannot be hashed
            own, _ = pd.factorize(values.map(str), use_na_sentinel=False)
        if own.any():
            combined, _ = pd.factorize(combined * (int(own.max()) + 1) + own)
    return combined


def newest_per_seed(games: DataFrame, keys: Sequence[str]) -> DataFrame:
    """One row per `keys` and seed: that of the game created last (two versions of the toolkit may have played it)."""
    order = games.sort_values("created", kind="stable")
    return order.drop_duplicates([*keys, "seed"], keep="last").sort_index()


def mean_and_interval(
    games: DataFrame, column: str, by: Sequence[Series[Any]], metric: str
) -> tuple[Series[float], Series[float], Series[float], Series[int]]:
    """Per group the mean of the finite values of a column, both ends of its 95% interval over games, and n.

    The interval is that of `games.request.kinds`. One game has none (NaN): it says nothing about the spread.
    """
    from math import nan

    import pandas as pd

    finite = games[games[column].notna()]
    keys = [each.reindex(finite.index) for each in by]
    if finite.empty:
        nothing = finite[column].groupby(keys, sort=False)
        return nothing.mean(), nothing.mean(), nothing.mean(), nothing.size()
    wanted = [name for name in (column, "targets", "requests") if name in finite.columns]
    contributed = pd.Series(
        [values_of_game({**row, metric: row[column]}, metric) for row in finite[wanted].to_dict("records")],
        index=finite.index,
    )
    groups = contributed.groupby(keys, sort=False)
    made = groups.agg(list).map(lambda found: interval(found, metric))
    n = groups.size()
    mean, low, high = (made.map(attrgetter(name)).astype(float) for name in ("mean", "low", "high"))
    return mean, low.where(n > 1, nan), high.where(n > 1, nan), n
