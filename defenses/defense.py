"""The nouns and the role of a request filter: `Context`, `Calibration`, `Verdict` and `Filter`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from data.examples import Examples
from models.victim import Victim
from unlearning.procedure import Task


@dataclass(frozen=True, eq=False)
class Calibration:
    """One batch of benign requests: positions (m,) in the training set, and the victim after all of them."""

    indices: Tensor
    candidate: Victim


@dataclass(frozen=True, eq=False)
class Context:
    """What a provider has when it reviews a batch of requests.

    `candidate` is the victim after the whole batch, computed on trial; `trusted` are examples of its own;
    `calibration` are benign batches of about the size of live ones. Which requests are malicious is not in it.
    """

    task: Task
    victim: Victim
    candidate: Victim
    trusted: Examples
    calibration: Sequence[Calibration] = ()


@dataclass(frozen=True, eq=False)
class Verdict:
    """`scores` (m,), higher = more suspicious; `accepted` (m,) bool; the `threshold` that a score may not exceed.

    Requests that are not accepted are quarantined, never refused: they are processed later by exact retraining.
    """

    scores: Tensor
    accepted: Tensor
    threshold: float


class Filter(Protocol):
    """A request filter: a frozen, validated configuration with three verbs."""

    @property
    def name(self) -> str: ...

    def scores(self, context: Context, indices: Tensor) -> Tensor:
        """Suspicion of each requested record (m,), higher = more suspicious."""
        ...

    def review(self, context: Context, indices: Tensor) -> Verdict:
        """Accept or quarantine each requested record (m,) of one batch."""
        ...

    def threshold(self, context: Context) -> float:
        """The score that a request may not exceed, from the calibration batches of `context`."""
        ...
