"""The nouns and the roles of a request filter: `Context`, `Calibration`, `Verdict`, `Filter` and `Calibrated`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from data.errors import UserError, called
from data.examples import Examples
from data.untouched import untouched
from models.victim import Victim
from unlearning.procedure import Task
from unlearning.service import Record


@dataclass(frozen=True, eq=False)
class Calibration:
    """One batch of benign requests: positions (m,) in the training set, and the victim after all of them."""

    indices: Tensor
    candidate: Victim


@dataclass(frozen=True, eq=False)
class Context:
    """What a provider has when it reviews a batch of requests.

    `candidate` is the victim after the whole batch, computed on trial; `trusted` are examples of its own;
    `calibration` are benign batches of about the size of live ones, of records that no live batch names. Which requests
    are malicious is not in it. `threshold` is what `Calibrated.threshold` gave for this calibration, where it was asked
    before, so that many batches are calibrated once. `submitted` (m) are the requested records as they were sent, row
    by row, where a request brings copies; `record` says whether the provider computes with them. Of batches that come
    one after the other `task` and `victim` are what became of those before, the calibration is that of the first, and
    `remembered` is what the verdict on the batch before gave; None for the first.
    """

    task: Task
    victim: Victim
    candidate: Victim
    trusted: Examples
    calibration: Sequence[Calibration] = ()
    threshold: float | None = None
    submitted: Examples | None = None
    record: Record = "submitted"
    remembered: object | None = None

    def unlearned(self, requests: Tensor) -> Examples:
        """What is unlearned for the records at positions `requests` (m,): as they are stored, or as they were sent."""
        if self.submitted is None or self.record == "own":
            return self.task.records[requests]
        return self.submitted


@dataclass(frozen=True, eq=False)
class Verdict:
    """`scores` (m,), higher = more suspicious; `accepted` (m,) bool; the `threshold` that a score may not exceed.

    Requests that are not accepted are quarantined, never refused: they are processed later by exact retraining. A
    filter that does not trust what was submitted may say which stored record is deleted `instead` (m,), as a position,
    or -1 where the request is carried out as it was sent. What it wants to know when it reviews the next batch of a
    sequence it gives to be `remembered`.
    """

    scores: Tensor
    accepted: Tensor
    threshold: float
    instead: Tensor | None = None
    remembered: object | None = None

    def deleted(self, requests: Tensor) -> Tensor:
        """The positions that are deleted of a batch (m,): those accepted, or others instead."""
        if self.instead is None:
            return requests[self.accepted]
        return torch.where(self.instead < 0, requests, self.instead)[self.accepted].unique()


def accept_everything(requests: Tensor) -> Verdict:
    """The verdict of a defense that does something else than to filter: requests (m,) accepted, of a suspicion of 0."""
    scores = torch.zeros(len(requests), dtype=torch.float64, device=requests.device)
    return Verdict(scores, torch.ones_like(requests, dtype=torch.bool), float("inf"))


class Filter(Protocol):
    """A request filter: a frozen, validated configuration. `review` decides; a game does what its verdict says.

    The verdict counts, not its scores: a filter may judge a batch as a whole. It may carry a `name` for messages, and
    the `game` that it plays.
    """

    def review(self, context: Context, requests: Tensor) -> Verdict:
        """Accept or quarantine each of the records at positions `requests` (m,), which are asked for in one batch."""
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A filter that compares with a threshold, which a game calibrates once and hands on in the context."""

    def threshold(self, context: Context) -> float:
        """The score that a request may not exceed, from the calibration batches of `context`."""
        ...


def reviewed(defense: Filter, context: Context, requests: Tensor) -> Verdict:
    """The verdict of a filter on one batch of requested records (m,), checked.

    Raises UserError where it is no verdict on m records: `accepted` bool (m,), `scores` finite numbers (m,), `instead`
    None or positions (m,).
    """
    lent = {"task.records.x": context.task.records.x, "task.records.y": context.task.records.y, "requests": requests}
    name = called(defense)
    with untouched(f"defense={name}", lent):
        verdict = defense.review(context, requests)
    wrong = None
    if not isinstance(verdict, Verdict):
        wrong = f"gave a {type(verdict).__name__} instead of a Verdict"
    elif not isinstance(verdict.accepted, Tensor) or not isinstance(verdict.scores, Tensor):
        wrong = "gave a Verdict whose accepted and scores are not both tensors"
    elif verdict.accepted.shape != requests.shape or verdict.accepted.dtype != torch.bool:
        wrong = f"accepted {tuple(verdict.accepted.shape)} {verdict.accepted.dtype} instead of bool ({len(requests)},)"
    elif verdict.scores.shape != requests.shape or not bool(torch.isfinite(verdict.scores).all()):
        wrong = f"gave scores that are not {len(requests)} finite numbers"
    elif verdict.instead is not None and not _positions(verdict.instead, len(requests), len(context.task.records)):
        wrong = f"gave as instead no {len(requests)} positions of records, or -1"
    if wrong:
        raise UserError(f"defense={name}: review() of {len(requests)} requested records {wrong}.")
    return verdict


def _positions(instead: object, count: int, records: int) -> bool:
    if not isinstance(instead, Tensor) or instead.shape != (count,) or instead.dtype != torch.long:
        return False
    return bool(((instead >= -1) & (instead < records)).all())


def calibrated(defense: Calibrated, context: Context) -> float:
    """The threshold of a filter, checked: a number, which may be infinite (nothing is quarantined)."""
    given: object = defense.threshold(context)
    try:
        threshold = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        threshold = float("nan")
    if threshold != threshold:
        raise UserError(f"defense={called(defense)}: threshold() must give a number, and gave {str(given)[:60]!r}.")
    return threshold
