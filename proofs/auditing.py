"""An audit: what looks at every step of a proof as it goes by, and says what is wrong with it."""

from __future__ import annotations

from typing import ClassVar

from proofs.problems import Expected, Problem, plan_of
from proofs.reader import Proof, Step

NO_BATCH = "No batch of the recipe's size can be filled with the retained records."


class Audit:
    """One check. A subclass looks at the header in its constructor, at steps in `step`, and sums up in `end`.

    `problems` are found in the order of steps, and of many of a kind only the first. `numbers` are what was measured,
    by name. `streams` says that it looks at steps, `states` that it looks at states, which must be of the architecture.
    No audit keeps more than two states.
    """

    name: ClassVar[str]
    streams: ClassVar[bool] = True
    states: ClassVar[bool] = False

    def __init__(self, proof: Proof, expected: Expected) -> None:
        self.proof, self.expected, self.plan = proof, expected, plan_of(proof, expected)
        self.problems: list[Problem] = []
        self.numbers: dict[str, float] = {}

    def step(self, step: Step) -> None:
        """Look at a step; number 0 is the state before the first."""

    def end(self) -> None:
        """All steps that are there were seen, and none is damaged."""

    def report(self, step: int | None, field: str | None, text: str) -> None:
        """Something is wrong."""
        self.problems.append(Problem(self.name, step, field, text))
