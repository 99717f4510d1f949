"""The heat map attack x procedure: the mean of a game's headline, larger where the crook wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.report_page.pool import Pooled, behind_defense, codes, intervals, newest_per_seed, settings
from games.game import Metric, headline

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
    games, alone = pooled.games, headline(pooled.game)
    behind = behind_defense(pooled.game)
    if behind is None:
        once = newest_per_seed(games[games["undefended"]], ["cell", "part"])
    else:
        once = newest_per_seed(games.assign(before=codes(games, settings(games, "defense"))), ["before", "part"])
    defended = newest_per_seed(games[~games["undefended"]], ["cell", "part"])
    data, attacks, procedures = (_names(games, name) for name in ("data", *AXES))
    choices: list[tuple[str | None, DataFrame, Metric]] = [(None, once, alone)] if len(once) else []
    for name in _names(defended, "defense"):
        choices.append((name, defended[defended["defense"] == name], behind or alone))
    parts = {str(part): ", ".join(dict.fromkeys(mine)) for part, mine in games.groupby("part")["heading"]}
    panels = [
        {"part": part, "data": name, "defense": defense, "cells": _cells(mine[chosen], metric, attacks, procedures)}
        for part in parts
        for name in ([EVERY, *data] if len(data) > 1 else [EVERY])
        for defense, mine, metric in choices
        for chosen in [(mine["part"] == part) & ((mine["data"] == name) | (name == EVERY))]
    ]
    return {
        "attacks": attacks, "procedures": procedures, "data": data if len(data) > 1 else [],
        "defenses": [name for name, _, _ in choices if name is not None], "parts": parts, "panels": panels,
        "label": alone.label, "digits": alone.digits,
    }  # fmt: skip


def _names(games: DataFrame, column: str) -> list[str]:
    return sorted(games[column].unique().tolist())


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
