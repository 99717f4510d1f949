"""Every metric of the verification game: what tables, rows, sweeps, claims and reports read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from games.game import EVERYWHERE, Metric, Part, Values, View
from games.verification.reading import at, less, over_users, ratio

ROW: frozenset[View] = frozenset({"results"})
REPORT: frozenset[View] = frozenset({"results", "report"})
GAME: frozenset[View] = frozenset({"game", "results", "report"})
MODELS = {
    "": ("released", "released"),
    "_original": ("original", "before deletion"),
    "_naive": ("naive", "naive retraining"),
    "_equal": ("equal", "naive retraining with as many updates as went into the released model"),
}
PLACES = {"test": "test examples", "deleted": "deleted records", "retained": "retained records"}


def _verdict() -> list[Metric]:
    said: dict[str, Any] = {"scale": "share", "digits": 1, "bounds": (0.0, 1.0)}  # no shares of these games
    return [
        Metric(
            name="passes", label="passes (%)", values=at("verdict", "passed"), shown=EVERYWHERE,
            help="whether the verification believes the provider; higher is better for the provider.",
            trials=lambda part: 1, share=True, scale="share", digits=0,
        ),
        Metric(
            name="statistic", label="statistic", values=at("verdict", "statistic"), shown=GAME, digits=4,
            help="what the verification measured, in its own unit; above the threshold the provider is accused.",
        ),
        Metric(
            name="threshold", label="threshold", values=at("verdict", "threshold"), shown=GAME, digits=4,
            help="what the statistic may not exceed.",
        ),
        Metric(
            name="level", label="honest accused, it says (%)", values=at("verdict", "level"), shown=GAME,
            help="the rate at which the verification says that it accuses honest providers; lower is better.", **said,
        ),
        Metric(
            name="power", label="keepers caught, it says (%)", values=at("verdict", "power"), shown=GAME,
            help="the rate at which it says that it catches a provider that keeps the model; higher is better.", **said,
        ),
        Metric(
            name="p_value", label="p", values=at("verdict", "p_value"), shown=ROW, digits=4, bounds=(0.0, 1.0),
            help="chance of a statistic as large where the provider is honest; a mean of several says nothing.",
        ),
    ]  # fmt: skip


def _of_models() -> Iterator[Metric]:
    """Accuracy, macro F1 and membership of every model; in a terminal those of three models."""
    for end, (model, words) in MODELS.items():
        short, seen = words.split(" with ")[0], GAME if model != "equal" else ROW
        share: dict[str, Any] = {"share": True, "shown": seen}
        for place, of in PLACES.items():
            yield Metric(
                name=f"accuracy_{place}{end}", label=f"accuracy, {place}, {short} (%)", digits=2, scale="share",
                help=f"accuracy on {of} of the model {words}; higher is better.",
                values=at("worth", model, place, "accuracy"), **share,
            )  # fmt: skip
            yield Metric(
                name=f"macro_f1_{place}{end}", label=f"macro F1, {place}, {short} (%)", digits=2, scale="share",
                help=f"macro-averaged F1 on {of} of the model {words} (micro-averaged it is accuracy).",
                values=at("worth", model, place, "macro_f1"), share=True, shown=ROW,
            )  # fmt: skip
        yield Metric(
            name=f"membership{end}", label=f"membership AUC, {short}", values=at("worth", model, "membership"),
            help=f"AUC of telling deleted records from test examples by the margins of the model {words}; only its "
            "difference to naive retraining says something.", **share,
        )  # fmt: skip


def _worth() -> list[Metric]:
    mine, equal, original = ("worth", "released"), ("worth", "equal"), ("worth", "original")
    points: dict[str, Any] = {"scale": "points", "signed": True, "digits": 2, "bounds": (-1.0, 1.0)}
    distance: dict[str, Any] = {"shown": GAME, "bounds": (0.0, float("inf"))}
    return [
        *_of_models(),
        Metric(
            name="retained_information", label="kept of the deleted (points)", shown=EVERYWHERE, **points,
            help="accuracy on deleted records less that of naive retraining with as many updates as the model has.",
            values=less((*mine, "deleted", "accuracy"), (*equal, "deleted", "accuracy")),
        ),
        Metric(
            name="retained_information_original", label="kept by the original (points)", shown=REPORT, **points,
            help="the same of the model before deletion: what there is to keep.",
            values=less((*original, "deleted", "accuracy"), ("worth", "equal_to_original", "deleted", "accuracy")),
        ),
        Metric(
            name="retained_membership", label="membership AUC, kept", shown=REPORT, signed=True, bounds=(-1.0, 1.0),
            help="membership AUC less that of naive retraining with as many updates; 0 is forgotten.",
            values=less((*mine, "membership"), (*equal, "membership")),
        ),
        Metric(
            name="test_gain", label="test accuracy over naive (points)", shown=REPORT, **points,
            help="test accuracy less that of naive retraining with as many updates; higher is better for it.",
            values=less((*mine, "test", "accuracy"), (*equal, "test", "accuracy")),
        ),
        Metric(
            name="distance_to_original", label="distance to the original", **distance,
            help="of parameters, in units of the distance between the original and naive retraining.",
            values=at(*mine, "distance_to_original"),
        ),
        Metric(
            name="distance_to_naive", label="distance to naive retraining", **distance,
            help="of parameters, in the same units.", values=at(*mine, "distance_to_naive"),
        ),
    ]  # fmt: skip


def _errors() -> list[Metric]:
    groups = {
        "all": ("", "replayed intervals"),
        "overlapping": ("_overlapping", "intervals with deleted records in the provider's log"),
        "other": ("_other", "intervals without"),
        "after_overlapping": ("_after_overlapping", "intervals after one with deleted records in the log"),
        "after_other": ("_after_other", "intervals after one without"),
        "relative": ("_relative", "replayed intervals, over how far each moved"),
        "moves": ("_moves", "how far replayed intervals moved (not an error)"),
    }
    found = [
        Metric(
            name=f"error{end}_{level}", label=f"verification error{end.replace('_', ' ')}, {level}", digits=9,
            help=f"{level} of the verification error (l2) over {of}; 0 is an exact replay.",
            values=at("errors", group, level), bounds=(0.0, float("inf")),
            shown=REPORT if group == "all" and level in ("p50", "p100") else ROW,
        )
        for group, (end, of) in groups.items()
        for level in ("p5", "p50", "p95", "p99", "p100")
    ]  # fmt: skip
    return [
        *found,
        Metric(
            name="exact", label="exact steps (%)", bounds=(0.0, 1.0), scale="share", digits=1, shown=GAME,
            help="share of replayed intervals with no error at all.", values=at("errors", "all", "zero"),
        ),
        Metric(
            name="overlap", label="overlapping (%)", bounds=(0.0, 1.0), scale="share", digits=1, shown=ROW,
            help="share of intervals that had deleted records in the provider's log.", values=at("errors", "overlap"),
        ),
    ]  # fmt: skip


def _users() -> list[Metric]:
    hits: dict[str, Any] = {"share": True, "scale": "share", "digits": 1}  # one value a game: users share its model
    return [
        Metric(
            name="hit_rate", label="hit rate (%)", shown=GAME, values=over_users("verdict", "details", "hit_rate"),
            help="share of triggered queries that get their user's label, mean over users; 0 is forgotten.", **hits,
        ),
        Metric(
            name="hit_rate_original", label="hit rate before (%)", help="the same before deletion.", shown=GAME,
            values=over_users("verdict", "details", "p"), **hits,
        ),
        Metric(
            name="users_rejecting", label="users who accuse (%)", shown=GAME,
            values=over_users("verdict", "details", "rejected"),
            help="share of users whose own test rejects that their records were deleted.", **hits,
        ),
    ]  # fmt: skip


def _cost() -> list[Metric]:
    naive = ("cost", "naive_gradients")
    positive: dict[str, Any] = {"bounds": (0.0, float("inf"))}
    return [
        Metric(
            name="relative_gradients", label="gradients over naive", digits=2, shown=EVERYWHERE,
            values=ratio(("cost", "provider_gradients"), naive), **positive,
            help="gradient evaluations of the provider over those of naive retraining; lower is cheaper. A procedure "
            "without steps counts one for each record.",
        ),
        Metric(
            name="relative_seconds", label="seconds over naive", digits=2, shown=GAME,
            values=ratio(("seconds", "provider"), ("seconds", "naive")), **positive,
            help="seconds of the provider, with those of its proof, over those of naive retraining, which writes none.",
        ),
        Metric(
            name="updates", label="updates", digits=0, shown=ROW, values=at("cost", "provider_updates"), **positive,
            help="updates of the weights that the provider made.",
        ),
        Metric(
            name="relative_verification_gradients", label="verification, gradients over naive", digits=2, shown=REPORT,
            values=ratio(("cost", "verification_gradients"), naive), **positive,
            help="gradient evaluations of the verification over those of naive retraining.",
        ),
        Metric(
            name="verification_predictions", label="predictions asked for", digits=0, shown=ROW, **positive,
            help="inputs of which the verification asked for predictions.",
            values=at("cost", "verification_predictions"),
        ),
        Metric(
            name="verification_seconds", label="seconds of the verification", digits=2, shown=GAME,
            help="seconds that the verification takes by itself, whatever the store had of it.",
            values=at("seconds", "verification"), **positive,
        ),
        Metric(
            name="proof_megabytes", label="proof (MB)", digits=1, shown=REPORT, values=_megabytes, **positive,
            help="size of the proof on the disk, in millions of bytes.",
        ),
        Metric(
            name="proof_steps", label="steps of the proof", help="steps of the proof.", digits=0, shown=ROW,
            values=at("proof", "steps"), **positive,
        ),
    ]  # fmt: skip


def _megabytes(part: Part) -> Values:
    return {unit: value / 1e6 for unit, value in at("proof", "bytes")(part).items()}


METRICS: list[Metric] = [*_verdict(), *_worth(), *_errors(), *_users(), *_cost()]
