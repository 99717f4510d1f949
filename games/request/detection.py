"""The filter at work: every batch reviewed, and how well malicious requests were told from benign ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data.errors import called
from data.examples import Examples
from defenses.defense import Calibrated, Calibration, Context, Verdict, calibrated, reviewed
from defenses.filters.influence import Influence
from games.request.evaluation import Look, sent
from games.request.quantities import BESIDE
from games.request.sequences import told_apart
from games.request.targets import Targets, unfiltered
from games.request.traffic import Stream, in_sequences
from games.request.turns import Turn, reviewed_in_turn
from metrics.clustered import clustered_auroc, clustered_rate, clustered_tpr
from metrics.detection import Roc, roc_curve
from models.victim import ModelStack, Victim
from unlearning.procedure import Request
from unlearning.service import OpenService

if TYPE_CHECKING:
    from games.request.targets import RequestSetup

CONTROL = "stream_random"  # the streams of the random controls, whose requests lie where the malicious ones do
NOBODY = torch.empty(0)
STREAM = "stream"  # the group whose records are told apart; of the other groups only the verdicts count


class Review:
    """The filter's work on one batch after the other, so that of the models after them only one is needed at a time.

    `groups` are the batches by name, `brought` the requests of the streams that bring copies, by their number.
    `calibrate` and `look(name)` are what a judge shows models to: those after the calibration batches come first, and
    are kept; a threshold is calibrated once. What counts is the filter's verdict.
    """

    def __init__(
        self, setup: RequestSetup, victim: Victim, batches: Sequence[Tensor], groups: Mapping[str, Any],
        brought: Sequence[Request | None] = (),
    ) -> None:  # fmt: skip
        self.setup, self.victim, self.batches, self.brought = setup, victim, batches, brought
        self.groups: Mapping[str, Sequence[Tensor]] = groups
        self.calibration: list[Calibration] = []
        self.threshold: float | None = None
        self.verdicts: dict[str, list[Verdict]] = {name: [] for name in groups}
        # without a filter nothing need differentiate the model, which an own module need not bear
        scored = not unfiltered(setup) or setup.game.differentiates(setup.attack, setup.procedure, setup.defense)
        self.beside: dict[str, list[Tensor]] = {name: [] for name in BESIDE if scored}

    def also(self, groups: Mapping[str, Sequence[Tensor]]) -> Review:
        """A review of other batches, with the calibration of this one; requests in them bring no copies."""
        found = Review(self.setup, self.victim, self.batches, groups)
        found.calibration, found.threshold = self.calibration, self.threshold
        return found

    def calibrate(self, models: Sequence[ModelStack], which: slice, predictions: Tensor) -> None:
        """Keep the models after some of the calibration batches."""
        for k, batch in enumerate(self.batches[which]):
            self.calibration.append(Calibration(batch, models[0][k].clone()))

    def look(self, name: str) -> Look:
        """Reviews batches of the group `name`, after which the victim is one of the models shown."""

        def review(models: Sequence[ModelStack], which: slice, predictions: Tensor) -> None:
            for k, batch in enumerate(self.groups[name][which]):
                number = which.start + k
                copies = self.brought[number] if name == STREAM and number < len(self.brought) else None
                context = self._context(
                    models[0][k], None if copies is None else sent(copies, batch, self.setup.task.records)
                )
                self.verdicts[name].append(self._verdict(name, number, context, batch))

        return review

    def in_turn(self, root: OpenService, parts: int) -> None:
        """Review all groups, whose batches are sequences of `parts`, one after the other; `root` is the provider."""
        for name, batches in self.groups.items():
            sequences = in_sequences(batches, parts)
            if name == STREAM:
                self.beside = {score: [NOBODY] * len(batches) for score in self.beside}

            def review(i: int, turn: Turn, name: str = name) -> Verdict:
                seen = turn.seen(self._context(turn.candidate, None))
                return self._verdict(name, i * parts + turn.place, seen, turn.batch)

            self.verdicts[name] = [each for own, _ in reviewed_in_turn(root, sequences, review) for each in own]

    def _verdict(self, name: str, number: int, context: Context, batch: Tensor) -> Verdict:
        """The verdict on the batch of that number of a group, with the scores that are reported beside it."""
        verdict = reviewed(self.setup.defense, context, batch)
        for score, found in self.beside.items() if name == STREAM else ():
            decides = isinstance(self.setup.defense, Influence) and self.setup.defense.score == score
            beside = Influence(score=score)  # type: ignore[arg-type]
            found[number : number + 1] = [verdict.scores if decides else beside.scores(context, batch)]
        return verdict

    def _context(self, candidate: Victim, submitted: Examples | None) -> Context:
        setup = self.setup
        parts = (setup.task, self.victim, candidate, setup.data.filter_trusted, self.calibration)
        if self.threshold is None and isinstance(setup.defense, Calibrated):
            self.threshold = calibrated(setup.defense, Context(*parts))
        return Context(*parts, self.threshold, submitted, setup.game.service.record)

    def accepted(self, name: str) -> list[Tensor]:
        """Of every batch of a group the positions that are deleted: those accepted, or others instead."""
        pairs = zip(self.groups[name], self.verdicts[name], strict=True)
        return [verdict.deleted(batch) for batch, verdict in pairs]

    def copies_left(self, brought: Sequence[Request | None]) -> list[Request | None]:
        """Of the requests that bring copies, by their number, the parts that are carried out as they were sent."""
        left: list[Request | None] = []
        for request, batch, verdict in zip(brought, self.groups[STREAM], self.verdicts[STREAM], strict=True):
            if request is None or verdict.instead is None:
                left.append(request)
                continue
            sent = set(batch[verdict.instead < 0].tolist())
            kept = [k for k, position in enumerate(request.indices) if position in sent]
            assert request.examples is not None
            part = Request(
                tuple(request.indices[k] for k in kept), request.examples[torch.tensor(kept, dtype=torch.long)]
            )
            left.append(part if kept else None)
        return left

    def report(
        self, chosen: Targets, streams: Sequence[Stream], benign: Mapping[str, str], parts: int = 1
    ) -> dict[str, Any]:
        """What the filter did: by direction over its streams, and on benign batches, whose groups are given by kind.

        Where batches are sequences of `parts`, also how it told these apart, and benign ones count by sequence.
        """
        verdicts = self.verdicts[STREAM]
        pairs = list(zip(streams, verdicts, strict=True))
        report: dict[str, Any] = {
            "threshold": self.threshold if self.threshold is not None else verdicts[0].threshold,
            "defense": self._called(),
            "quarantined": [stream.positions[~found.accepted].tolist() for stream, found in pairs],
        }  # fmt: skip
        scores = {"decision": [found.scores for found in verdicts], **self.beside}
        for direction in self.setup.game.targets.directions:
            of_streams = [d for d in chosen.goal_directions for _ in range(len(streams) // len(chosen.goals))]
            mine = [i for i, each in enumerate(of_streams) if each == direction]
            mine = [i for i in mine if streams[i].malicious.any()]  # a stream without a request has nothing to tell
            mine = [] if unfiltered(self.setup) and report["defense"] != "none" else mine  # nothing is told apart
            report[direction] = measured(
                {name: [values[i] for i in mine] for name, values in scores.items()},
                [~verdicts[i].accepted for i in mine], [streams[i] for i in mine],
                [~self.verdicts[CONTROL][i].accepted for i in mine],
            )  # fmt: skip
        report["benign_size"] = parts * len(self.groups[next(iter(benign.values()))][0])
        report["benign_rejected"] = {kind: self._rejected(name, parts) for kind, name in benign.items()}
        if parts > 1 and not unfiltered(self.setup):
            alone = {kind: self.verdicts[name] for kind, name in benign.items()}
            asks = torch.stack([stream.malicious.any() for stream in streams]).cpu().reshape(-1, parts).any(1).tolist()
            directions = chosen.goal_directions
            report["sequences"] = told_apart(verdicts, self.verdicts[CONTROL], alone, parts, directions, asks)
        return report

    def _called(self) -> str:
        """The filter's name; `none`, by which no filter is known, is only that of none."""
        name = called(self.setup.defense)
        return name if name != "none" or unfiltered(self.setup) else type(self.setup.defense).__name__

    def _rejected(self, name: str, parts: int) -> list[float]:
        held = [~found.accepted for found in self.verdicts[name]]
        return [float(torch.cat(list(each)).double().mean()) for each in in_sequences(held, parts)]


def measured(
    scores: Mapping[str, Sequence[Tensor]], flagged: Sequence[Tensor], streams: Sequence[Stream],
    of_control: Sequence[Tensor],
) -> dict[str, Any] | None:  # fmt: skip
    """Detection over all records of the streams, with intervals over streams; None without malicious requests in them.

    The records of one stream are judged by one model, so streams are what counts as independent.
    """
    if not streams:
        return None
    truth = torch.cat([stream.malicious for stream in streams]).cpu()
    positions = torch.cat([stream.positions for stream in streams]).cpu()
    number = torch.cat([torch.full((len(s.positions),), i) for i, s in enumerate(streams)])
    hits = torch.cat(list(flagged)).cpu()
    report: dict[str, Any] = {
        "caught": _share(hits[truth], number[truth]),
        "caught_random": _share(torch.cat(list(of_control)).cpu()[truth], number[truth]),
        "benign_rejected": _share(hits[~truth], number[~truth]),
        "streams": len(number[truth].unique()),
        "malicious": int(truth.sum()), "malicious_distinct": len(positions[truth].unique()),
        "benign": int((~truth).sum()), "benign_distinct": len(positions[~truth].unique()),
    }  # fmt: skip
    for name, values in scores.items():
        pooled = torch.cat(list(values)).double().cpu()
        report[name] = {
            "auroc": clustered_auroc(pooled, truth, number).as_dict(),
            "tpr_at_1": clustered_tpr(pooled, truth, number, 0.01).as_dict(),
            "tpr_at_5": clustered_tpr(pooled, truth, number, 0.05).as_dict(),
        }
        if name == "decision":
            report["roc"] = corners(roc_curve(pooled, truth))
    return report


def _share(hits: Tensor, number: Tensor) -> dict[str, Any]:
    found = clustered_rate(hits, number)
    return {"value": found.mean, "n": found.n, "settings": {"low": found.low, "high": found.high}}


def corners(curve: Roc) -> dict[str, list[float]]:
    """A ROC curve without the points that lie between two others on a horizontal or vertical line: the same steps."""
    fpr, tpr = curve.false_positive.tolist(), curve.true_positive.tolist()
    inner = range(1, len(fpr) - 1)
    straight = {i for i in inner if fpr[i - 1] == fpr[i] == fpr[i + 1] or tpr[i - 1] == tpr[i] == tpr[i + 1]}
    keep = [i for i in range(len(fpr)) if i not in straight]
    return {"fpr": [fpr[i] for i in keep], "tpr": [tpr[i] for i in keep]}
