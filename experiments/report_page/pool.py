"""Games gathered into cells: the games of one cell share every setting but the seed, and are pooled per part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import nan
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.listing.filters import plain
from experiments.listing.row import GROUPS, TRIALS, contributed
from experiments.report_page.columns import in_report
from games.game import Game, Metric, heat

if TYPE_CHECKING:
    from pandas import DataFrame, Series

NOT_SETTINGS = ("store.", "wandb.", "hydra.")
ORDER = ["game", "data", "model", "training", "attack", "unlearning", "defense"]  # in which cells are numbered
NO_DEFENSE = "none"


@dataclass(frozen=True, eq=False)
class Pooled:
    """What was played of one game.

    `games` has one row per game and part, with `cell` and readable names; `rows` one per cell and part. A row has `n`
    games, and for every metric of the report its mean, its 95% interval over games under `METRIC_low` and
    `METRIC_high`, and how many of the games have it under `METRIC_n`. Where a seed was played more than once in a cell,
    only the newest game is pooled; `repeated` counts the others. Cells are numbered through all games of a page.
    """

    game: Game
    games: DataFrame
    rows: DataFrame
    repeated: int


def pool(frame: DataFrame, games: Mapping[str, Game]) -> list[Pooled]:
    """Gather a frame of `experiments.listing.results` (one row per game and part) into cells, game by game.

    Raises UserError for rows of a game that is not among `games`.
    """
    unknown = set(frame["game"]) - games.keys()
    if unknown:
        raise UserError(f"The game {min(unknown)} is not known here; name the folder that has it with --config-dir.")
    named = _named(frame, [metric for name in set(frame["game"]) for metric in _read(games[name])])
    named = named.assign(cell=named.groupby(settings(named), dropna=False, sort=False).ngroup())
    named = named.sort_values([*ORDER, "cell", "seed", "part"], kind="stable")
    named = named.assign(cell=named["cell"].factorize()[0]).reset_index(drop=True)
    return [_of_game(games[str(name)], mine) for name, mine in named.groupby("played", sort=False)]


def _of_game(game: Game, games: DataFrame) -> Pooled:
    keys = ["cell", "part"]
    newest = newest_per_seed(games, keys)
    grouped = newest.groupby(keys, sort=False)
    rows = grouped.size().to_frame("n")
    for metric in in_report(game):
        rows[[metric.name, f"{metric.name}_low", f"{metric.name}_high"]] = intervals(newest, metric, keys)
        rows[f"{metric.name}_n"] = grouped[metric.name].count()
    return Pooled(game, games, rows.reset_index(), games["digest"].nunique() - newest["digest"].nunique())


def _read(game: Game) -> list[Metric]:
    """The metrics of a game that the page reads: those of its report and of its heat map."""
    return [metric for metric in game.metrics() if "report" in metric.shown or metric.name in heat(game)]


def _named(frame: DataFrame, metrics: Sequence[Metric]) -> DataFrame:
    """The frame with numbers as numbers, `played`, `undefended`, and readable names in the columns of the groups.

    A name carries the settings in which the games of that name differ, as in `uncertainty (budget=5)`, so that games
    with different settings are never averaged as one.
    """
    import numpy as np
    import pandas as pd

    made: dict[str, Any] = {"played": frame["game"], "undefended": frame["defense"].astype(str) == NO_DEFENSE}
    for metric in metrics:
        values = frame.get(metric.name, pd.Series(nan, index=frame.index))
        made[metric.name] = pd.to_numeric(values, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    texts = {name: frame[name].astype(str) for name in (*GROUPS, "part", "heading", "goal")}
    return frame.assign(**{**made, **texts, **{group: _qualified(texts[group], frame, group) for group in GROUPS}})


def _qualified(names: Series[str], games: DataFrame, group: str) -> Series[str]:
    """Names with the settings of `group` in which rows of one name differ."""
    columns = [name for name in games.columns if name.startswith(f"{group}.")]
    found = names.copy()
    for name, rows in games.groupby(names, sort=False):
        texts = rows[columns].map(_written)
        differing = [column for column in columns if texts[column].nunique() > 1]
        targets = [each for each in differing if each.endswith("._target_")]
        # of another component, say another functional, its name says enough
        enough = tuple(each.removesuffix("_target_") for each in targets if each.count(".") > 1)
        telling = [each for each in differing if each in targets or not each.startswith(enough)]
        said = [f"{each.removeprefix(f'{group}.').removesuffix('._target_')}=" + texts[each] for each in telling]
        if said:
            found[rows.index] = f"{name} (" + said[0].str.cat(said[1:], sep=", ") + ")"
    return found


@lru_cache(typed=True)  # of thousands of games the same few
def _written(value: Any) -> str:
    """A setting as it is typed (1 for 1.0, as a column with gaps has it), and of a component's path the class."""
    text = plain(value)
    return text.rpartition(".")[2] if text.count(".") > 1 else text


def settings(games: DataFrame, without: str = "") -> list[str]:
    """The columns that make a cell; those of the group `without` are left out."""
    dotted = [name for name in games.columns if "." in name and not name.startswith(NOT_SETTINGS)]
    return [name for name in (*GROUPS, *dotted) if name.partition(".")[0] != without]


def newest_per_seed(games: DataFrame, keys: Sequence[str]) -> DataFrame:
    """One row per `keys` and seed: that of the game created last (two versions of the toolkit may have played it)."""
    order = games.sort_values("created", kind="stable")
    return order.drop_duplicates([*keys, "seed"], keep="last").sort_index()


def intervals(games: DataFrame, metric: Metric, by: Sequence[str]) -> DataFrame:
    """Per group the `mean` of a metric's finite values, and `low` and `high`, the ends of its 95% interval over games.

    One game has no interval (NaN): it says nothing about the spread.
    """
    import pandas as pd

    finite = games[games[metric.name].notna()]
    numbers = finite.filter([metric.name, f"{metric.name}{TRIALS}"])
    values = [contributed(row, metric) for row in numbers.to_dict("records")]
    found = finite[list(by)].assign(values=values).groupby(list(by), sort=False)["values"].agg(list)
    made = [(metric.interval(each), len(each) > 1) for each in found]
    ends = [(one.mean, one.low, one.high) if several else (one.mean, nan, nan) for one, several in made]
    return pd.DataFrame(ends, index=found.index, columns=["mean", "low", "high"], dtype=float)
