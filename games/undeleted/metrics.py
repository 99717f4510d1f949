"""Every metric of the undeleted game."""

from __future__ import annotations

from collections.abc import Callable
from math import log10
from typing import Any

from games.game import EVERYWHERE, Metric, Part, Values, View
from games.metric import number, whole

STATES = {
    "": "exact releases after the attacker's deletions",
    "_defended": "the same with the defense",
    "_control": "exact releases after as many deletions by other people alone",
}
NAMES = {"": "exact", "_defended": "defended", "_control": "control"}
SMALLEST = 1e-16  # error that float64 can tell from none
ROW: frozenset[View] = frozenset({"results"})
SHOWN: frozenset[View] = frozenset({"game", "results"})


def _of(end: str, name: str) -> Callable[[Part], Values]:
    """A number of a state; nothing where there is no such state, or it is not defined in it."""

    def values(part: Part) -> Values:
        state = part.record[part.name][NAMES[end]]
        return {} if state is None else whole(number(state.get(name)))

    return values


def _digits(end: str) -> Callable[[Part], Values]:
    """How many decimals are right."""

    def values(part: Part) -> Values:
        return {unit: -log10(max(error, SMALLEST)) for unit, error in _of(end, "error")(part).items()}

    return values


def _determined(end: str) -> Callable[[Part], Values]:
    """Known of all unknowns."""

    def values(part: Part) -> Values:
        state = part.record[part.name][NAMES[end]]
        return {} if state is None else whole(state["known"] / state["unknowns"])

    return values


def _metrics() -> list[Metric]:
    found = []
    for end, words in STATES.items():
        beside = f", {NAMES[end]}" if end else ""
        share: dict[str, Any] = {"share": True, "scale": "share", "digits": 1}
        found += [
            Metric(
                name=f"reconstructed{end}", label=f"reconstructed{beside} (%)", values=_of(end, "reconstructed"),
                help=f"share of other people's numbers, or rare people's records, known within the tolerance; {words}.",
                shown=EVERYWHERE, **share,
            ),
            Metric(
                name=f"determined{end}", label=f"determined{beside} (%)", values=_determined(end),
                help=f"share of other people's numbers read by rank, or independent equations over unknowns; {words}.",
                shown=SHOWN, **share,
            ),
            Metric(
                name=f"error{end}", label=f"error{beside}", values=_of(end, "error"), digits=14,
                help="largest error of a number in standard deviations, or relative error of the moments where these "
                f"are determined; {words}.",
                shown=ROW, bounds=(0.0, float("inf")),
            ),
            Metric(
                name=f"digits{end}", label=f"correct digits{beside}", values=_digits(end), digits=1,
                help=f"minus the decimal logarithm of `error{end}`, at most 16; {words}.", shown=SHOWN,
            ),
            Metric(
                name=f"wrong{end}", label=f"wrong{beside}", values=_of(end, "wrong"), digits=0,
                help=f"numbers or records that are claimed and are not within the tolerance; {words}.",
                shown=SHOWN, bounds=(0.0, float("inf")),
            ),
            Metric(
                name=f"releases{end}", label=f"releases{beside}", values=_of(end, "releases"), digits=0,
                help=f"results that are published; {words}.", shown=ROW if end else SHOWN,
            ),
        ]  # fmt: skip
    return [
        *found,
        *(
            Metric(
                name=f"published{end}", label=f"published{f', {NAMES[end]}' if end else ''}", digits=0,
                values=_of(end, "published"), shown=SHOWN,
                help=f"other people's numbers that stand in some release, whoever knows their rank; {words}.",
            )
            for end, words in STATES.items()
        ),
        Metric(
            name="untouched_control", label="read by an onlooker, control (%)", values=_of("_control", "untouched"),
            help="share of rare people's records that follow from other people's deletions alone, for who knows which "
            "features are rare.",
            share=True, scale="share", digits=1, shown=SHOWN,
        ),
        Metric(
            name="deletions", label="deletions", values=_of("", "deletions"), digits=0,
            help="records deleted in all.", shown=SHOWN,
        ),
    ]  # fmt: skip


METRICS: tuple[Metric, ...] = tuple(_metrics())
