"""Every metric of the request game: what tables, rows, sweeps, claims and reports read."""

from __future__ import annotations

from typing import Any

from games.game import Metric, View
from games.metric import whole
from games.request import measures
from games.request.measures import Measure
from games.request.metrics_beside import beside
from games.request.metrics_by_state import NOWHERE, by_state, on
from games.request.quantities import BESIDE, POSITIVE, SYMMETRIC

ROW: frozenset[View] = frozenset({"results"})
REPORT: frozenset[View] = frozenset({"results", "report"})
SWEEP: frozenset[View] = frozenset({"results", "sweep"})


def _plain(name: str, label: str, help: str, measure: Measure, shown: frozenset[View] = ROW, **more: Any) -> Metric:
    return Metric(**{"name": name, "label": label, "help": help, "values": on(measure), "shown": shown, **more})


def _single() -> list[Metric]:
    """What is measured once per direction, or over states."""
    seconds = {
        "attack": "of the attack",
        "judgement": "of the judgement",
        "victim": "of training the victim",
        "forget_one": "of forgetting one request",
        "retrain_one": "of retraining without it",
    }
    counts = {
        "queries": "black-box queries",
        "predictions": "predictions asked for",
        "operator_calls": "runs of the procedure",
    }
    share: dict[str, Any] = {"share": True, "digits": 2}
    positive: dict[str, Any] = {"bounds": POSITIVE}
    wanted: dict[str, Any] = {"bounds": SYMMETRIC, "signed": True}
    return [
        _plain("targets", "targets", "targets of the direction.", lambda of: whole(float(len(of.mine))), digits=0),
        _plain("requests", "requests", "requests for them.", lambda of: whole(float(len(of.goals))), digits=0),
        _plain(
            "requested",
            "deletions",
            "records of a request, on average.",
            measures.requested,
            SWEEP,
            digits=1,
            **positive,
        ),
        _plain(
            "requested_share",
            "deletions (%)",
            "the same as a share of the training records.",
            measures.requested_share,
            scale="share",
            digits=2,
            share=True,
        ),
        _plain(
            "effect",
            "effect",
            "what the attack attained of its own goal, less what a random request of its size did; "
            "positive is as wanted.",
            measures.effect("after"),
            REPORT | SWEEP,
            group="Effect",
            **wanted,
        ),
        _plain(
            "effect_defended",
            "with defense",
            "the same where both went through the defense; with none: whole streams.",
            measures.effect("defended"),
            REPORT | SWEEP,
            group="Effect",
            **wanted,
        ),
        _plain(
            "fresh_effect",
            "effect, fresh seeds",
            "the effect judged with fresh seeds.",
            measures.fresh_effect("after"),
            **wanted,
        ),
        _plain(
            "fresh_effect_defended",
            "effect, defended, fresh seeds",
            "the same through the defense.",
            measures.fresh_effect("defended"),
            **wanted,
        ),
        _plain(
            "confidence_effect",
            "confidence effect",
            "confidence after the attack less after the random request.",
            measures.difference(measures.own("after", "confidence"), measures.own("random", "confidence")),
            bounds=SYMMETRIC,
        ),
        _plain(
            "gain",
            "gain",
            "confidence after the attack less after the random request, as wanted.",
            measures.wanted_effect,
            NOWHERE,
            **wanted,
        ),
        _plain(
            "gain_kept",
            "gain, label kept",
            "the same, of the targets that keep their label.",
            measures.gain_kept,
            NOWHERE,
            **wanted,
        ),
        _plain(
            "gain_counted",
            "gain, counted",
            "the same, where confidence that was gained does not count on either side if the label is lost.",
            measures.difference(measures.counted("after"), measures.counted("random")),
            NOWHERE,
            **wanted,
        ),
        _plain("fresh_gain", "gain, fresh seeds", "`gain` with fresh seeds.", measures.fresh_gain, NOWHERE, **wanted),
        _plain(
            "auroc",
            "AUROC",
            "how well the score that decides tells malicious from benign records.",
            measures.detected("decision", "auroc"),
            REPORT | SWEEP,
            group="Filter",
            share=True,
        ),
        _plain(
            "tpr_at_1",
            "TPR at 1%",
            "malicious records caught at 1% false positives.",
            measures.detected("decision", "tpr_at_1"),
            **share,
        ),
        _plain(
            "tpr_at_5",
            "TPR at 5%",
            "malicious records caught at 5% false positives.",
            measures.detected("decision", "tpr_at_5"),
            REPORT,
            group="Filter",
            share=True,
        ),
        _plain("caught", "caught", "malicious records that the filter rejected.", measures.detected("caught"), **share),
        _plain(
            "benign_rejected",
            "benign rejected",
            "benign records in the same streams that it rejected.",
            measures.detected("benign_rejected"),
            **share,
        ),
        *(
            _plain(
                f"auroc_{s}",
                f"AUROC of {s}",
                f"the same as `auroc`, of the score {s}.",
                measures.detected(s, "auroc"),
                **share,
            )
            for s in BESIDE
        ),
        _plain(
            "benign_only_rejected",
            "benign rejected, alone",
            "records rejected in benign streams.",
            measures.benign_only(0),
            **share,
        ),
        _plain(
            "harder_only_rejected",
            "harder benign rejected",
            "the same, of a harder benign population.",
            measures.benign_only(1),
            **share,
        ),
        *(
            _plain(
                name,
                name.replace("_", " "),
                f"{words} of the whole game.",
                measures.of_record(name),
                REPORT if name == "queries" else ROW,
                digits=0,
                group="Cost",
                **positive,
            )
            for name, words in counts.items()
        ),
        _plain(
            "queries_per_request",
            "queries per request",
            "black-box queries over requests.",
            measures.queries,
            NOWHERE,
            digits=0,
            **positive,
        ),
        _plain("memory_mb", "memory (MB)", "peak memory of the process.", measures.memory, digits=0, **positive),
        *(
            _plain(
                f"seconds_{stage}",
                f"seconds {words}",
                f"wall-clock seconds {words}.",
                measures.seconds(stage),
                SWEEP if stage == "forget_one" else ROW,
                **positive,
            )
            for stage, words in seconds.items()
        ),
        _plain(
            "relative_seconds",
            "time of retraining",
            "seconds of forgetting over those of retraining.",
            measures.relative_seconds,
            NOWHERE,
            **positive,
        ),
        _plain(
            "relative_distance_in_sequence",
            "distance, in sequence",
            "relative distance to retraining of a request in two halves.",
            measures.in_sequence,
            **positive,
        ),
        _plain(
            "seconds",
            "seconds",
            "victim, attack and judgement together, in wall-clock seconds.",
            measures.all_seconds,
            REPORT | SWEEP,
            digits=1,
            group="Cost",
            **positive,
        ),
    ]


METRICS: tuple[Metric, ...] = (*_single(), *beside(), *by_state())
