"""The heat map attack x procedure: the mean effect, by the attack's own goal, positive where it is as wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.report_page.columns import DIRECTIONS
from experiments.report_page.markup import escape, number, table
from experiments.report_page.pool import Pooled, codes, mean_and_interval, newest_per_seed, settings

if TYPE_CHECKING:
    from pandas import DataFrame

EVERY = ""  # the name of the choice `all data sets`
NO_DEFENSE = "none"
# settings on which the effect of the attack alone does not depend
OF_STREAMS = tuple(
    f"stream.{name}" for name in ("benign_per_malicious", "benign", "harder", "benign_batches", "calibration_batches")
)


def heatmap(pooled: Pooled) -> dict[str, Any]:
    """What the page draws: the names of both axes, the choices, and one panel per choice.

    Panels without a defense hold the effect of the attack alone. The same attack played against several defenses has
    the same effect before them, so it counts once. Panels with a defense hold what that defense left of the effect.
    """
    games = pooled.games
    games = games.assign(alone=games["effect"], left=games["effect_defended"])
    alone = [name for name in settings(games, without=["defense", "fresh_seeds", "judge"]) if name not in OF_STREAMS]
    games["game"] = codes(games, alone)
    once = newest_per_seed(games, ["game", "direction"])
    defended = newest_per_seed(games[games["defense"] != NO_DEFENSE], ["cell", "direction"])
    data, defenses = _names(games, "data"), _names(defended, "defense_name")
    attacks, procedures = _names(games, "who"), _names(games, "procedure")
    panels = []
    for direction in (name for name in DIRECTIONS if (games["direction"] == name).any()):
        for name in [EVERY, *data] if len(data) > 1 else [EVERY]:
            for defense in (None, *defenses):
                part = once if defense is None else defended[defended["defense_name"] == defense]
                part = part[(part["direction"] == direction) & (part["data"].eq(name) if name else True)]
                cells = _cells(part, "alone" if defense is None else "left", attacks, procedures)
                panels.append({"direction": direction, "data": name, "defense": defense, "cells": cells})
    return {
        "attacks": attacks, "procedures": procedures, "data": data if len(data) > 1 else [], "defenses": defenses,
        "directions": DIRECTIONS, "panels": panels,
    }  # fmt: skip


def _names(games: DataFrame, column: str) -> list[str]:
    return sorted(games[column].unique().tolist())


def _cells(games: DataFrame, value: str, attacks: list[str], procedures: list[str]) -> list[dict[str, Any]]:
    """One entry per attack and procedure that were played together: positions, mean, interval, goal, games, cells."""
    games = games[games[value].notna()]
    if games.empty:
        return []
    by = [games["who"], games["procedure"]]
    goals = games["goal"].groupby(by, sort=False).first()
    cells, n = (games["cell"].groupby(by, sort=False).nunique(), games["cell"].groupby(by, sort=False).size())
    # cells of one seed share data, victims and targets: their mean is what a seed contributes
    seeds = games.groupby(["who", "procedure", "seed"], sort=False)[value].mean().rename("effect").reset_index()
    mean, low, high, _ = mean_and_interval(seeds, "effect", [seeds["who"], seeds["procedure"]], "effect")
    return [
        {
            "attack": attacks.index(who), "procedure": procedures.index(procedure),
            "mean": round(float(mean[who, procedure]), 5), "n": int(n[who, procedure]),
            "low": _end(low[who, procedure]), "high": _end(high[who, procedure]), "goal": str(goals[who, procedure]),
            "cells": int(cells[who, procedure]),
        }
        for who, procedure in mean.index
    ]  # fmt: skip


def _end(value: float) -> float | None:
    return None if value != value else round(float(value), 5)


def _ends(cell: dict[str, Any]) -> str:
    if cell["low"] is None:
        return ""
    return f"{number(cell['low'], signed=True)} to {number(cell['high'], signed=True)}"


def as_table(found: dict[str, Any]) -> str:
    """The numbers of the heat map over all data sets as one HTML table, for readers who do not see colours."""
    rows = [
        (
            escape(found["attacks"][cell["attack"]]), escape(found["procedures"][cell["procedure"]]),
            DIRECTIONS[panel["direction"]], escape(panel["defense"] or "no defense"), number(cell["mean"], signed=True),
            _ends(cell), escape(cell["goal"]), str(cell["n"]), str(cell["cells"]),
        )
        for panel in found["panels"]
        if panel["data"] == EVERY
        for cell in panel["cells"]
    ]  # fmt: skip
    heads = ("attack", "procedure", "direction", "defense", "mean effect", "95% interval", "goal", "games", "cells")
    return table(heads, rows)
