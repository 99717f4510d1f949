"""The heat map attack x procedure: the mean of a game's headline, larger where the crook wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.report_page.pool import Pooled, intervals, newest_per_seed, settings
from games.game import Metric, headline, heat

if TYPE_CHECKING:
    from pandas import DataFrame

EVERY = ""  # the name of the choice `all data sets`
AXES = ["attack", "unlearning"]


def heatmap(pooled: Pooled) -> dict[str, Any]:
    """What the page draws: the names of both axes, the choices, and one panel per choice.

    Panels with a defense hold the games that were played with it. Where the game has a metric `HEADLINE_defended`,
    they hold that, and the panels without a defense hold the headline of all games: the same attack played against
    several defenses has the same one before them, so it counts once.
    """
    game, games = pooled.game, pooled.games
    alone = headline(game)
    behind = next((metric for metric in game.metrics() if metric.name == heat(game)[1]), None)
    if behind is None:
        once = newest_per_seed(games[games["undefended"]], ["cell", "part"])
    else:
        once = newest_per_seed(games, [*settings(games, "defense"), "part"])
    defended = newest_per_seed(games[~games["undefended"]], ["cell", "part"])
    data, attacks, procedures = (sorted(games[name].unique().tolist()) for name in ("data", *AXES))
    several = data if len(data) > 1 else []
    choices = [(None, once, alone)] if len(once) else []
    choices += [(name, mine, behind or alone) for name, mine in defended.groupby("defense")]
    parts = {str(part): ", ".join(dict.fromkeys(mine)) for part, mine in games.groupby("part")["heading"]}
    panels = [
        {"part": part, "data": name, "defense": defense,
         "cells": _cells(mine[(mine["part"] == part) & mine["data"].isin(sets)], metric, attacks, procedures)}
        for part in parts
        for name, sets in [(EVERY, data), *((each, [each]) for each in several)]
        for defense, mine, metric in choices
    ]  # fmt: skip
    return {
        "attacks": attacks, "procedures": procedures, "data": several,
        "defenses": [name for name, _, _ in choices if name is not None], "parts": parts, "panels": panels,
        "label": alone.label, "digits": alone.digits,
    }  # fmt: skip


def _cells(games: DataFrame, metric: Metric, attacks: list[str], procedures: list[str]) -> list[dict[str, Any]]:
    """One entry per attack and procedure that were played together: positions, mean, interval, goal, games, cells."""
    games = games[games[metric.name].notna()]
    if games.empty:
        return []
    grouped = games.groupby(AXES, sort=False)
    goals, cells, n = grouped["goal"].first(), grouped["cell"].nunique(), grouped.size()
    # cells of one seed share data, victims and targets: their mean is what a seed contributes
    seeds = games.groupby([*AXES, "seed"], sort=False)[metric.name].mean().reset_index()
    found = intervals(seeds, metric, AXES) * metric.factor
    return [
        {
            "attack": attacks.index(key[0]), "procedure": procedures.index(key[1]), "mean": _rounded(mean),
            "low": _rounded(low), "high": _rounded(high), "n": int(n[key]), "cells": int(cells[key]),
            "goal": str(goals[key]),
        }
        for key, mean, low, high in found.itertuples()
    ]  # fmt: skip


def _rounded(value: float) -> float | None:
    return None if value != value else round(float(value), 5)
