"""Metrics that exist for every state of the request game: `QUANTITY_STATE`, their changes, and with fresh seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from games.game import Metric, Part, Values, View
from games.request import measures
from games.request.measures import LEAST, Measure
from games.request.quantities import (
    FRESH,
    MEASURED,
    OF_FORGETTING,
    OF_MODELS,
    OF_TARGETS,
    STATES,
    SYMMETRIC,
    Quantity,
)

SUCCEEDED = ("after", "random", "nearest", "stream", "defended", "defended_random")  # states whose success rows keep
NOWHERE: frozenset[View] = frozenset()
IN_REPORT = {
    "success_after", "success_defended", "success_defended_random", "kept_after", "confidence_before",
    "confidence_after", "confidence_random", "confidence_nearest", "confidence_defended", "accuracy_before",
    "accuracy_after",
}  # fmt: skip
IN_SWEEP = {
    "success_after", "kept_after", "accuracy_before", "accuracy_after", "relative_distance_after",
    "prediction_distance_after",
}  # fmt: skip


def by_state() -> list[Metric]:
    """All of them."""
    return [*_of_states(), *_of_changes(), *_of_fresh_seeds(), *_of_split()]


def on(measure: Measure) -> Callable[[Part], Values]:
    """A measure of a direction as that of a part."""
    return cast(Callable[[Part], Values], measure)  # the parts of this game are directions


def _metric(quantity: Quantity, name: str, help: str, measure: Measure, **more: Any) -> Metric:
    kind = {"digits": quantity.digits, "scale": quantity.scale, "share": quantity.share, "bounds": quantity.bounds}
    return Metric(**{"name": name, "label": quantity.label, "help": help, "values": on(measure), **kind, **more})


def _shown(name: str, in_rows: bool) -> frozenset[View]:
    views: tuple[tuple[set[str], View], ...] = ((IN_REPORT, "report"), (IN_SWEEP, "sweep"))
    return frozenset({"results", *(view for names, view in views if name in names)}) if in_rows else NOWHERE


def _of_states() -> list[Metric]:
    """`QUANTITY_STATE`, with the victim's own seed."""
    found = []
    for state, words in STATES.items():
        for each in OF_TARGETS:
            name, in_rows = f"{each.name}_{state}", each.name not in ("attained", "success") or state in SUCCEEDED
            trials = measures.trials if each.name in ("kept", "success") and state != "benign" else None
            measure = measures.own(state, each.name)
            found.append(
                _metric(each, name, f"{each.help}; {words}.", measure, shown=_shown(name, in_rows), trials=trials)
            )
        for each in (*OF_MODELS, *(OF_FORGETTING if state in MEASURED else ())):
            name = f"{each.name}_{state}"
            found.append(
                _metric(
                    each, name, f"{each.help}; {words}.", measures.models(state, each.name), shown=_shown(name, True)
                )
            )
    return found


def _of_changes() -> list[Metric]:
    """`QUANTITY_change_STATE` since before, `gain_STATE`, `moved_STATE` and `flipped_STATE`."""
    found = []
    for state, words in STATES.items():
        if state == "before":
            continue
        for each in (*OF_TARGETS[:2], *OF_MODELS):
            of = measures.own if each in OF_TARGETS else measures.models
            changed = replace(each, share=False, bounds=None, scale="plain")
            measure = measures.difference(of(state, each.name), of("before", each.name))
            found.append(_metric(changed, f"{each.name}_change_{state}", f"change of: {each.help}; {words}.", measure))
        found += [
            Metric(
                name=f"gain_{state}",
                label="gain",
                bounds=SYMMETRIC,
                values=on(measures.gain(state)),
                help=f"change of confidence as the attacker wants it (positive is as wanted); {words}.",
            ),
            Metric(
                name=f"moved_{state}",
                label="moved",
                share=True,
                values=on(measures.moved(state)),
                help=f"1 where that change is at least {LEAST} and the label is kept; {words}.",
            ),
            Metric(
                name=f"flipped_{state}",
                label="flipped",
                share=True,
                values=on(measures.flipped(state)),
                help=f"1 where the label is lost; {words}.",
            ),
        ]
    return found


def _of_fresh_seeds() -> list[Metric]:
    """`fresh_QUANTITY_STATE`, averaged over fresh seeds."""
    states = {**STATES, "nothing": "with nothing deleted"}
    return [
        _metric(
            each,
            f"fresh_{each.name}_{state}",
            f"{each.help}; {states[state]}, with fresh seeds.",
            measures.fresh(state, each.name),
            shown=frozenset({"results"}) if each.name in ("confidence", "kept", "success") else NOWHERE,
        )
        for state in FRESH
        for each in OF_TARGETS
    ]


def _of_split() -> list[Metric]:
    """Of requests that an attacker who knows of the filter spreads over several streams; nothing without a filter."""
    shared: dict[str, Any] = {"shown": frozenset({"results", "sweep", "report"}), "group": "Filter"}
    share: dict[str, Any] = {"share": True, "digits": 0, "scale": "share"}
    rate: dict[str, Any] = {"share": True, "digits": 2}
    where = "of the same requests, spread over several streams by an attacker that knows of the filter"
    return [
        Metric(
            name="success_split", label="success, split (%)", values=on(measures.split("attack", "success")),
            help=f"success after the filter {where}.", trials=measures.trials, **share, **shared,
        ),
        Metric(
            name="success_split_random", label="control, split (%)", values=on(measures.split("random", "success")),
            help="the same of random requests, spread likewise.", shown=frozenset({"results"}), **share,
        ),
        Metric(
            name="effect_split", label="effect, split", values=on(measures.split_effect), bounds=SYMMETRIC, signed=True,
            help=f"effect after the filter {where}; its control is spread likewise.", shown=frozenset({"results"}),
        ),
        Metric(
            name="auroc_split", label="AUROC, split", values=on(measures.split_detected("decision", "auroc")),
            help=f"`auroc` {where}.", **rate, **shared,
        ),
        Metric(
            name="caught_split", label="caught, split", values=on(measures.split_detected("caught")),
            help=f"`caught` {where}.", shown=frozenset({"results"}), **rate,
        ),
    ]  # fmt: skip
