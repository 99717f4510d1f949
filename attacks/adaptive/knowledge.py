"""What an adaptive attacker knows of a filter: what it would make of a request, in streams of the attacker's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from unlearning.procedure import Request


@dataclass(frozen=True, eq=False)
class Trial:
    """One request in a stream that the attacker made up: what the filter said, and what would have come of it.

    `scores` (k,) and `accepted` (k,) bool are of its records, in their order, and `threshold` is what a score may not
    exceed. `attained` is what the attack's criterion gives for the targets after everything that was accepted, and
    `moved` the plain change of the probability of their labels in the wanted direction, both means over the targets.
    """

    scores: Tensor
    accepted: Tensor
    threshold: float
    attained: float
    moved: float

    @property
    def worth(self) -> tuple[float, float]:
        """What trials are compared by: the goal, and between equals the change; larger is better."""
        return self.attained, self.moved


class Knowledge(Protocol):
    """The filter, its settings and the model are known; calibration, company and trusted examples are stand-ins.

    The attacker has neither the provider's calibration batches, nor the benign requests of the streams that it will be
    in, nor the trusted examples: it draws the first two from its own pool, and uses its reference examples for the
    third. `size` is how many records a stream has.
    """

    @property
    def size(self) -> int: ...

    def trials(
        self, requests: Sequence[Request], goals: Sequence[int], parts: int = 1, poison: Tensor | None = None,
        draw: int = 0,
    ) -> list[Trial]:  # fmt: skip
        """A trial of each request (for the goal of that number), cut into `parts`, each in a stream of its own.

        `poison` are positions that stand in every calibration batch. Trials of one `draw` are in the same company, and
        of another in another. An empty request has a trial too.
        """
        ...
