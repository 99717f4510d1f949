"""Audits of the batches of a proof: which records they have, how often, and in which order.

What is checked beside the removal is ours. Replaying alone accepts batches that are chosen or used again and again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from proofs.auditing import NO_BATCH, Audit
from proofs.problems import Expected
from proofs.reader import Proof, Step


class Removability(Audit):
    """No batch has a record that was to be forgotten or is not there; the header names the same ones as forgotten."""

    name = "removability"

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        self.numbers["removability_steps"] = 0
        gone = (~expected.kept).nonzero()[:, 0].tolist()
        if sorted(proof.header.deleted) != gone:
            self.report(
                None,
                "deleted",
                f"The {len(proof.header.deleted):,} records that the proof says to leave out are not the {len(gone):,} "
                "that were to be forgotten.",
            )

    def step(self, step: Step) -> None:
        n = len(self.expected.records)
        for what, wrong in (
            (f"is not one of the {n:,} that there are", (step.batch < 0) | (step.batch >= n)),
            ("was to be forgotten", ~self.expected.kept[step.batch.clamp(0, n - 1)]),
        ):
            if bool(wrong.any()):
                if self.numbers["removability_steps"] == 0:
                    record = int(step.batch[wrong][0])
                    self.report(
                        step.number, "batch", f"The batch of step {step.number} has record {record}, which {what}."
                    )
                self.numbers["removability_steps"] += 1
                return


class Epochs(Audit):
    """Counts how often each record was used in an epoch, which is as long as the recipe says for what was retained."""

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        self.uses = torch.zeros(len(expected.records), dtype=torch.int32)
        self.since = 0  # steps since the epoch began
        if self.plan is None:
            self.report(None, "recipe.batch_size", NO_BATCH)

    def step(self, step: Step) -> None:
        if step.number == 0 or self.plan is None:
            return
        batch = step.batch[(step.batch >= 0) & (step.batch < len(self.uses))]
        self.uses.index_add_(0, batch, torch.ones(len(batch), dtype=torch.int32))
        self.since += 1
        self.used(step.number, batch)
        if self.since == self.plan.per_epoch:
            self.epoch(step.number)
            self.uses.zero_()
            self.since = 0

    def used(self, number: int, batch: Tensor) -> None:
        """A step was counted."""

    def epoch(self, number: int) -> None:
        """An epoch was counted, which ends at a step."""


class Multiplicity(Epochs):
    """No record is used twice in an epoch."""

    name = "multiplicity"

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        self.numbers["multiplicity_most"] = 0

    def used(self, number: int, batch: Tensor) -> None:
        counts = self.uses[batch]
        most = int(counts.max()) if len(counts) else 0
        if most > 1 and self.numbers["multiplicity_most"] <= 1:
            record = int(batch[counts > 1][0])
            self.report(number, "batch", f"The batch of step {number} has record {record}, which its epoch had before.")
        self.numbers["multiplicity_most"] = max(self.numbers["multiplicity_most"], most)


class Coverage(Epochs):
    """Every epoch uses all retained records exactly once, but for the tail that fills no batch, which is dropped.

    `coverage_off` is the mean share of retained records that an epoch does not use exactly once.
    """

    name = "coverage"

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        self._off: list[float] = []

    def epoch(self, number: int) -> None:
        assert self.plan is not None
        once = int((self.uses == 1)[self.expected.kept].sum())
        due = self.plan.per_epoch * self.plan.training.batch_size
        if once < due and not self.problems:
            self.report(
                number, "batch", f"The epoch that ends at step {number} uses {once:,} retained records exactly once, "
                f"where an honest one uses {due:,} of {self.plan.n:,}."
            )  # fmt: skip
        self._off.append(1 - once / self.plan.n)

    def end(self) -> None:
        if self.since and self.plan is not None:
            self.report(
                self.proof.steps, "batch",
                f"The last epoch has {self.since:,} steps, where an honest one has {self.plan.per_epoch:,}.",
            )  # fmt: skip
        if self._off:
            self.numbers["coverage_off"] = sum(self._off) / len(self._off)


class Order(Audit):
    """Where the verifier chose the order of the records, the batches are those that follow from it."""

    name = "order"

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        self._due: Iterator[Tensor] | None = None
        if expected.order is None:
            return
        if proof.header.order != expected.order:
            said = "none" if proof.header.order is None else f"the seed {proof.header.order}"
            self.report(None, "order", f"The verifier chose the order of the records, and the proof says {said}.")
        if self.plan is None:
            self.report(None, "recipe.batch_size", NO_BATCH)
        else:
            self._due = self.plan.batches(expected.retained, expected.order)

    def step(self, step: Step) -> None:
        if step.number == 0 or self._due is None:
            return
        due = next(self._due, None)
        if due is None or not torch.equal(due, step.batch):
            self._due = None
            self.report(
                step.number, "batch", f"The batch of step {step.number} is not the one that the verifier's order gives."
            )  # fmt: skip
