"""Figures of a verification game: verification errors, hit rates, accuracies, cost against detectability."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from data.naming import option
from games.game import Drawing, Part
from games.metric import number
from games.verification.reading import at
from metrics.intervals import interval_of_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from games.game import Record

# Okabe-Ito, told apart by readers with any common colour vision
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
SMALLEST = 1e-10  # of the axis of errors that are all 0
MODELS = {"released": ("released", ORANGE), "original": ("before deletion", GREY), "naive": ("naive retraining", BLUE)}
PLACES = ("test", "deleted", "retained")
CAPTIONS = {
    "errors": "Share of replayed steps whose verification error is at most the value on the x-axis, with the "
    "tolerance of the verification and, where it was measured, the floor: the largest error of honest replays that sum "
    "batches in another order. An exact replay has no error at all.",
    "hits": "Share of a user's triggered queries that are answered with the user's label, before the deletion and "
    "after it, with the threshold of the test of an owner alone; dotted lines part seeds.",
    "accuracies": "Accuracy of the released model, of the model before deletion and of naive retraining, with 95% "
    "intervals over seeds; the axis does not begin at 0.",
    "cost": "Gradient evaluations of the provider over those of naive retraining, and the statistic of the "
    "verification over its threshold, above which the provider is accused.",
}


def figures(records: Sequence[Record]) -> Iterator[Drawing]:
    """The figures that the records support, one at a time."""
    drawings: dict[str, Callable[[Sequence[Record]], Figure | None]] = {
        "errors": _errors, "hits": _hits, "accuracies": _accuracies, "cost": _cost,
    }  # fmt: skip
    for name, drawing in drawings.items():
        figure = drawing(records)
        if figure is not None:
            yield Drawing(name, figure, CAPTIONS[name], f"{CAPTIONS[name]} {_alt(name, records)}".strip())


def _alt(name: str, records: Sequence[Record]) -> str:
    if name != "accuracies":
        return ""
    said = []
    for model, (words, _) in MODELS.items():
        means = [interval.mean for interval in (_interval(records, model, place) for place in PLACES)]
        said.append(f"{words}: {', '.join(f'{p} {100 * m:.1f}%' for p, m in zip(PLACES, means, strict=True))}")
    return "; ".join(said) + "."


def _errors(records: Sequence[Record]) -> Figure | None:
    """The distribution of verification errors, one line a seed; None where nothing was replayed."""
    from matplotlib.figure import Figure

    shown = [record for record in records if record["errors"] is not None]
    if not shown:
        return None
    figure = Figure(figsize=(4.6, 3.2))
    axis = figure.subplots()
    floor = max([number(record["verdict"]["details"].get("floor")) or 0.0 for record in shown])
    if floor:
        axis.axvline(floor, color=GREY, linestyle=":", linewidth=1, label="floor of honest replays")
    for i, record in enumerate(shown):
        found, exact = record["errors"]["distribution"], record["errors"]["all"]["zero"]
        label = f"{_who(record)} ({100 * exact:.0f}% of steps exact)" if i == 0 else None
        if found["thresholds"]:
            axis.step(found["thresholds"], found["share"], where="post", color=ORANGE, linewidth=1.2, label=label)
        else:
            axis.plot([SMALLEST, 1.0], [1.0, 1.0], color=ORANGE, linewidth=1.2, label=label)
    threshold = number(shown[0]["verdict"]["threshold"])
    if threshold and _in_l2(shown[0]):
        axis.axvline(threshold, color="black", linestyle="--", linewidth=0.8, label="tolerance")
    axis.set(xscale="log", ylim=(0, 1.02), xlabel="verification error (l2)", ylabel="share of replayed steps")
    axis.legend(frameon=False, fontsize=7, loc="best")
    figure.tight_layout()
    return figure


def _hits(records: Sequence[Record]) -> Figure | None:
    """Hit rates by user, before and after; None where the verification has no triggers."""
    from matplotlib.figure import Figure

    details = [record["verdict"]["details"] for record in records if "hit_rate" in record["verdict"]["details"]]
    if not details:
        return None
    after = [value for each in details for value in map(number, each["hit_rate"]) if value is not None]
    before = [value for each in details for value in map(number, each.get("p", [])) if value is not None]
    figure = Figure(figsize=(max(3.6, 0.09 * len(after) + 2.4), 3.0))
    axis = figure.subplots()
    if len(before) == len(after):
        axis.vlines(range(len(after)), before, after, color=GREY, linewidth=0.8)
        axis.plot(before, color=GREY, marker="o", linestyle="none", markersize=4, label="before deletion")
    axis.plot(after, color=ORANGE, marker="o", linestyle="none", markersize=4, label="after")
    if "threshold_rate" in details[0]:
        alone = sum(each["threshold_rate"] for each in details) / len(details)
        axis.axhline(alone, color="black", linestyle="--", linewidth=0.8, label="threshold, alone")
    for end in itertools.accumulate(len(each["hit_rate"]) for each in details[:-1]):
        axis.axvline(end - 0.5, color=GREY, linestyle=":", linewidth=0.6)
    axis.set(ylim=(-0.03, 1.03), xlabel="user", ylabel="share of triggered queries that hit")
    axis.set_xticks([])
    axis.legend(frameon=False, fontsize=7, loc="best")
    figure.tight_layout()
    return figure


def _accuracies(records: Sequence[Record]) -> Figure | None:
    """Bars of accuracy on three kinds of examples, for three models."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.0))
    axis = figure.subplots()
    width, low = 0.26, 1.0
    for shift, (model, (words, colour)) in enumerate(MODELS.items()):
        found = [_interval(records, model, place) for place in PLACES]
        means = [each.mean for each in found]
        reach: Any = None
        if len(records) > 1:
            reach = [[m.mean - m.low for m in found], [m.high - m.mean for m in found]]
            low = min(low, *(each.low for each in found))
        low = min(low, *means)
        places = [place + (shift - 1) * width for place in range(len(PLACES))]
        axis.bar(places, means, width * 0.92, color=colour, label=words, yerr=reach, capsize=3, error_kw={"lw": 0.8})
    axis.set_xticks(range(len(PLACES)), [f"{place} records" if place != "test" else "test" for place in PLACES])
    axis.set(ylabel="accuracy", ylim=(max(0.0, low - 0.25 * (1 - low) - 0.02), 1.005))
    axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3)
    figure.tight_layout()
    return figure


def _cost(records: Sequence[Record]) -> Figure | None:
    """Statistic over threshold against the cost of the provider; None where a verification has neither."""
    from matplotlib.figure import Figure

    points = [(_who(record), *found) for record in records if (found := _point(record)) is not None]
    if not points:
        return None
    top = 10 * max([1.0, *(y for _, _, y in points if math.isfinite(y))])
    figure = Figure(figsize=(4.4, 3.2))
    axis = figure.subplots()
    axis.axhline(1, color="black", linestyle="--", linewidth=0.8, label="accused above")
    axis.axvline(1, color=BLUE, linestyle=":", linewidth=0.8, label="naive retraining")
    colours = dict(
        zip(dict.fromkeys(who for who, _, _ in points), [ORANGE, GREEN, BLUE, GREY] * len(points), strict=False)
    )
    for infinite in (False, True):
        for who, colour in colours.items():
            mine = [(x, min(y, top)) for name, x, y in points if name == who and math.isinf(y) == infinite]
            if mine:
                style: dict[str, Any] = {"color": colour, "linestyle": "none", "markersize": 5}
                style["marker"] = "^" if infinite else "o"
                label = f"{who}, beyond any threshold" if infinite else who
                axis.plot(*zip(*mine, strict=True), label=label, **style)
    axis.set_xscale("symlog", linthresh=0.1)
    axis.set_yscale("symlog", linthresh=1)
    axis.set(xlabel="gradients over naive retraining", ylabel="statistic over threshold", ylim=(-0.1, 2 * top))
    axis.set_xlim(-0.02, 2 * max([1.0, *(x for _, x, _ in points)]))
    axis.legend(frameon=False, fontsize=7, loc="best")
    figure.tight_layout()
    return figure


def _point(record: Record) -> tuple[float, float] | None:
    """Relative cost, and the statistic over its threshold; infinite where a check failed, or the threshold is 0."""
    verdict, cost = record["verdict"], record["cost"]
    statistic, threshold = float(verdict["statistic"]), float(verdict["threshold"])
    audited = math.isinf(statistic) or (threshold == 0 and record["errors"] is not None)
    spent = number(cost["provider_gradients"])
    if math.isnan(statistic) or not math.isfinite(threshold) or not cost["naive_gradients"] or spent is None:
        return None
    if threshold < 0 or (threshold == 0 and not audited):  # a ratio of them says nothing
        return None
    height = statistic / threshold if threshold else (math.inf if statistic > 0 else 0.0)
    return spent / cost["naive_gradients"], max(0.0, height)


def _who(record: Record) -> str:
    return "honest" if record["honest"] else option(record["config"], "attack").replace("_", " ")


def _in_l2(record: Record) -> bool:
    """Whether the threshold of a verification is one of errors in l2."""
    return str(record["config"]["defense"].get("distance", "l2")) == "l2"


def _interval(records: Sequence[Record], model: str, place: str) -> Any:
    values = [at("worth", model, place, "accuracy")(Part("all", "", record)) for record in records]
    return interval_of_values([list(each.values()) for each in values], True, None, "games")
