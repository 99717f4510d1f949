"""The heat map of a sweep of request games: attacks against procedures, without a filter and behind each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from games.game import Drawing
from games.request.words import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
SUCCESS = "success_defended"  # of requests in their streams, behind the filter if there is one
CONTROL = "success_defended_random"  # the same of random requests of their size, by what the attack wants
STRATEGY = "attack.adaptive._target_"  # the class of what an attacker does that may know of a filter
DARK = 0.6  # the share from which on text is white
ACROSS = 4  # panels beside each other


def maps(rows: Sequence[Row]) -> Iterator[Drawing]:
    """By direction one figure: a panel of random requests, one without a filter, one for every filter.

    An attack with an adaptive strategy has a line of its own. Where several games share a cell (seeds, settings), their
    mean is shown. There is none of a single attack or procedure.
    """
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [{**row, "attack": _named(row)} for row in rows if row["part"] == part]
        attacks, procedures = (sorted({row[axis] for row in mine}) for axis in ("attack", "unlearning"))
        if len(attacks) > 1 and len(procedures) > 1:
            caption = (
                f"{NAMES[part]}: targets (%) for which attacks succeed, by attack and procedure, in streams with "
                "benign requests, without a filter and behind each; in italics the AUROC (%) of its score. The first "
                "panel is the control: random requests of the same size, by what the attack of the line wants. What "
                "was not played, or does not fit together, is hatched."
            )
            yield Drawing(f"matrix_{part}", _drawn(mine, attacks, procedures), caption)


def _drawn(rows: Sequence[Row], attacks: Sequence[str], procedures: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    defenses = sorted({row["defense"] for row in rows}, key=lambda name: (name != "none", name))
    panels = [("random requests, no filter", "none", CONTROL)] if "none" in defenses else []
    panels += [("no filter" if name == "none" else name.replace("_", " "), name, SUCCESS) for name in defenses]
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    size = (2.2 + 0.42 * len(procedures) * across, 1.0 + down * (0.9 + 0.33 * len(attacks)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, (title, defense, metric) in zip(axes, panels, strict=False):
        mine = [row for row in rows if row["defense"] == defense]
        image = _panel(axis, mine, attacks, procedures, metric)
        axis.set_title(title)
    for axis in axes[max(0, len(panels) - across) :][: len(panels)]:
        axis.tick_params(labelbottom=True)  # a panel may have none below it
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    bar = figure.colorbar(image, ax=list(axes), shrink=0.6, pad=0.01, aspect=30)
    bar.set_label("success (% of targets)")
    return figure


def _named(row: Row) -> str:
    """The attack of a row, with its strategy where it has one."""
    strategy = str(row.get(STRATEGY) or "none").split(".")[-2:][0]  # attacks.adaptive.norm_cap.NormCap
    return str(row["attack"]) if strategy == "none" else f"{row['attack']}, {strategy}"


def _panel(axis: Axes, rows: Sequence[Row], attacks: Sequence[str], procedures: Sequence[str], metric: str) -> Any:
    """One panel, with numbers in its cells: success, and behind a filter the AUROC of its score."""
    grid = [[_mean(rows, attack, procedure, metric) for procedure in procedures] for attack in attacks]
    values = [[math.nan if value is None else 100 * value for value in line] for line in grid]
    axis.patch.set(facecolor="#F2F2F2", hatch="////", edgecolor="#C8C8C8")
    image = axis.imshow(values, cmap="YlOrRd", vmin=0, vmax=100, aspect="auto")
    for i, attack in enumerate(attacks):
        for j, procedure in enumerate(procedures):
            value, auroc = grid[i][j], _mean(rows, attack, procedure, "auroc")
            if value is None:
                continue
            lift, colour = 0.0 if auroc is None else 0.2, "white" if value >= DARK else "black"
            axis.text(j, i - lift, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
            if auroc is not None:
                small = axis.text(j, i + lift, f"{100 * auroc:.0f}", ha="center", va="center", color=colour)
                small.set(fontsize=5.5, fontstyle="italic")
    axis.set_xticks(range(len(procedures)), [name.replace("_", " ") for name in procedures], rotation=45, ha="right")
    axis.set_yticks(range(len(attacks)), [name.replace("_", " ") for name in attacks])
    axis.tick_params(length=0, labelsize=7)
    axis.spines[:].set_visible(False)
    return image


def _mean(rows: Sequence[Row], attack: str, procedure: str, metric: str) -> float | None:
    values = [row.get(metric) for row in rows if row["attack"] == attack and row["unlearning"] == procedure]
    there = [float(value) for value in values if value is not None]
    return fmean(there) if there else None
