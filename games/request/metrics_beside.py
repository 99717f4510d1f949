"""Metrics of the request game about what lies beside targets and models: trusted examples, and sequences of streams."""

from __future__ import annotations

from typing import Any

from games.game import Metric, Values
from games.metric import number, whole
from games.request.direction import Direction
from games.request.measures import Measure
from games.request.metrics_by_state import on
from games.request.quantities import POSITIVE

ROW: dict[str, Any] = {"shown": frozenset({"results"})}


def beside() -> list[Metric]:
    """All of them."""
    return [*_of_trusted_examples(), *_of_sequences()]


def _of_trusted_examples() -> list[Metric]:
    return [
        Metric(
            name="trusted_distance",
            label="distance to trusted",
            help="of a target from the nearest of the filter's trusted examples, Euclidean in the inputs.",
            values=on(_distance),
            digits=2,
            bounds=POSITIVE,
            **ROW,
        ),
        Metric(
            name="trusted_distance_usual",
            label="of test examples",
            help="the same of all test examples, their mean.",
            values=on(_usual),
            digits=2,
            bounds=POSITIVE,
            **ROW,
        ),
    ]


def _of_sequences() -> list[Metric]:
    alarm = "sequences of streams, each judged at what became of those before, in which something was quarantined; "
    named = {
        "caught": ("sequences caught", f"{alarm}of requests that come in several streams."),
        "caught_random": ("random sequences caught", f"{alarm}of their random controls."),
        "auroc": ("AUROC of sequences", "how well the largest score of a sequence tells these two apart."),
    }
    found = [
        Metric(name=f"sequences_{name}", label=label, help=help, values=on(_told(name)), digits=2, share=True, **ROW)
        for name, (label, help) in named.items()
    ]
    for which, kind in enumerate(("benign", "harder")):
        label = f"{kind} sequences accused"
        of = "of benign streams alone." if which == 0 else "of a harder benign population."
        values = on(_accused(which))
        found.append(
            Metric(name=f"sequences_{kind}", label=label, help=alarm + of, values=values, digits=2, share=True, **ROW)
        )
    return found


def _distance(of: Direction) -> Values:
    targets = of.record["targets"]
    return of.targets(targets, "trusted_distance") if "trusted_distance" in targets else {}


def _usual(of: Direction) -> Values:
    found = of.record["targets"].get("trusted_distance_usual")
    return {} if found is None else whole(number(found))


def _told(name: str) -> Measure:
    def measure(of: Direction) -> Values:
        found = of.record["detection"].get("sequences", {}).get(of.name)
        return {} if found is None else whole(number(found[name]["value"]))

    return measure


def _accused(which: int) -> Measure:
    def measure(of: Direction) -> Values:
        kinds = list(of.record["detection"].get("sequences", {}).get("benign", {}).values())
        return whole(sum(kinds[which]) / len(kinds[which])) if len(kinds) > which else {}

    return measure
