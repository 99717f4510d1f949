"""Batches that come one after the other: each is reviewed at what the provider made of what it accepted before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.adaptive.strategy import Adaptive
from defenses.defense import Context, Verdict
from models.passes import models_at_once
from models.progress import progress
from models.victim import ModelStack, Victim, stack
from unlearning.service import OpenService
from unlearning.turns import carried_on

Parts = Sequence[Tensor]  # the batches of one sequence, in their order


def streams_of(attack: Any, strategy: Adaptive) -> int:
    """Over how many streams a request is spread, by the strategy or by the attack's own stages."""
    return max(strategy.parts, int(getattr(attack, "streams", 1)))


@dataclass(frozen=True, eq=False)
class Turn:
    """One batch at its turn, at that `place` of its sequence: the provider as it is, the victim after the whole batch,
    and what the filter remembers.
    """

    place: int
    provider: OpenService
    candidate: Victim
    batch: Tensor
    remembered: object | None

    def seen(self, first: Context) -> Context:
        """The context of the review, from that `first` one of a sequence."""
        return replace(
            first, task=self.provider.task, victim=self.provider.victims[0], candidate=self.candidate,
            remembered=self.remembered,
        )  # fmt: skip


Reviewer = Callable[[int, Turn], Verdict]  # of the sequence of that number


def reviewed_in_turn(
    root: OpenService, sequences: Sequence[Parts], review: Reviewer
) -> list[tuple[list[Verdict], OpenService]]:
    """The verdicts on the batches of every sequence, all of one length, and what the provider became in the end.

    `root` is the provider before the first batch. What is accepted of a batch is unlearned before the next is
    reviewed; the models of `models_at_once` sequences are held at a time.
    """
    found: list[tuple[list[Verdict], OpenService]] = []
    size = models_at_once(root.victims[0])
    with progress("reviewing sequences", len(sequences)) as tick:
        for first in range(0, len(sequences), size):
            some = sequences[first : first + size]
            found += _some(root, some, lambda i, turn, first=first: review(first + i, turn))  # type: ignore[misc]
            tick(len(some))
    return found


def _some(root: OpenService, sequences: Sequence[Parts], review: Reviewer) -> list[tuple[list[Verdict], OpenService]]:
    providers, verdicts = [root] * len(sequences), [list[Verdict]() for _ in sequences]
    for place, batches in enumerate(zip(*sequences, strict=True)):
        tried, left = carried_on(root, providers, batches), []
        for i, (batch, after) in enumerate(zip(batches, tried, strict=True)):
            remembered = verdicts[i][-1].remembered if verdicts[i] else None
            verdicts[i].append(review(i, Turn(place, providers[i], after.victims[0], batch, remembered)))
            left.append(verdicts[i][-1].deleted(batch))
        held = [i for i, own in enumerate(left) if not same_positions(own, batches[i])]
        parts = carried_on(root, [providers[i] for i in held], [left[i] for i in held]) if held else []
        providers = tried
        for i, provider in zip(held, parts, strict=True):
            providers[i] = provider
    return list(zip(verdicts, providers, strict=True))


def same_positions(some: Tensor, others: Tensor) -> bool:
    """Whether these are the same positions, in whatever order."""
    return len(some) == len(others) and torch.equal(some.sort().values, others.sort().values)


def in_turn(root: OpenService, models: Sequence[ModelStack], sequences: Sequence[Parts]) -> list[ModelStack]:
    """`models`, one stack for every victim, with those of sequences replaced by what comes of them batch by batch.

    A sequence of fewer than two batches that ask for something is left as it is, and so is everything where the
    procedure is exact: what it gives for all batches is what it gives at once.
    """
    mine = {i: [each for each in own if len(each)] for i, own in enumerate(sequences)}
    mine = {i: own for i, own in mine.items() if len(own) > 1}
    if root.procedure.exact or not mine:
        return list(models)
    found = [[each[row] for row in range(len(each))] for each in models]
    for i, batches in mine.items():
        provider = root
        for batch in batches:
            [provider] = carried_on(root, [provider], [batch])
        for victims, after in zip(found, provider.victims, strict=True):
            victims[i] = after
    return [stack(victims) for victims in found]
