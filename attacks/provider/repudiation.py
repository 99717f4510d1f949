"""Proof of repudiation: the original is released, and its own log is shown with other batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.provider.anchored import Anchored, Forgotten, intervals
from attacks.provider.logs import opening_of
from attacks.provider.neighbours import Space, nearest_retained
from attacks.provider.provider import Demand
from data.bounds import at_most
from data.randomness import generator
from models.stepwise import State
from models.victim import Victim
from proofs.reader import Step

Search = Literal["drop", "neighbours", "best_of"]
Choices = Callable[[Sequence[Step]], list[list[Tensor]]]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Repudiation:
    """Releases the original as it was, and denies that deleted records made it.

    The proof has the states of the log of the original training, all of them as they are. Only batches b_t with deleted
    records are others: b'_t without them, so that || U(w_{t-1}; b'_t) - w_t || is small. `search`:

    drop: b'_t is what is left of the batch (where nothing is left, the nearest substitutes stand in).
    neighbours: in the place of every deleted record stands the most similar retained one of its class, in `space`.
    best_of: the same, or one of `candidates` choices, each of which draws for every deleted record one of the `among`
    most similar, whichever comes nearest to the logged state. Moments of the optimiser are those that a verifier
    carries.

    drop and neighbours take no gradient, best_of `candidates` + 1 for every batch with deleted records and, with
    moments, one for every other batch. Where a log has checkpoints at every k-th step only, intervals take the place of
    steps.

    Source: Kong, Roy Chowdhury, Chaudhuri, "Can Membership Inferencing be Refuted?", 2023, arXiv:2303.03648. Intervals
    and moments are ours. A proof must have the checkpoints and key frames of the log.
    """

    game: ClassVar[str] = "verification"
    name: ClassVar[str] = "repudiation"
    needs_log: ClassVar[bool] = True

    search: Search = "best_of"
    space: Space = "pixels"
    candidates: Annotated[int, Field(ge=1), at_most(10_000, "each takes a gradient of a batch")] = 20
    among: Annotated[int, Field(ge=1), at_most(10_000, "all are held")] = 10

    def pretend(self, demand: Demand) -> Victim:
        """The original. Raises UserError where a class of a deleted record has no retained record left."""
        log, recorder = demand.log, demand.recorder
        if recorder is None:
            return demand.original
        assert log is not None
        forgotten, anchored = Forgotten.of(demand), Anchored(demand)
        choices = self._choices(demand, forgotten)
        state = log.at(0).state
        assert state is not None
        recorder.begin(opening_of(log), state)
        for before, steps in intervals(log):
            batches, after = self._shown(forgotten, anchored, before, steps, choices)
            for step, batch in zip(steps, batches, strict=True):
                recorder.step(batch, step.lr, after)
        recorder.end()
        demand.gradients.count += anchored.gradients.count
        return demand.original

    def _shown(
        self, forgotten: Forgotten, anchored: Anchored, before: State, steps: Sequence[Step], choices: Choices
    ) -> tuple[Sequence[Tensor], State]:
        """The batches of an interval as the proof shows them, and the logged state after it."""
        after, batches = steps[-1].state, [step.batch for step in steps]
        assert after is not None
        found = choices(steps) if forgotten.touches(steps) else [batches]
        if self.search != "best_of" or (len(found) == 1 and not anchored.carries):
            return found[0], after
        chosen, end = anchored.closest(anchored.at(before), steps, found)
        anchored.at(end)  # go on with the moments of the best, not with those of the last one tried
        return chosen, after

    def _choices(self, demand: Demand, forgotten: Forgotten) -> Choices:
        """What gives for an interval the choices of batches without deleted records."""
        task, gone, left = demand.task, forgotten.gone, forgotten.left
        k = _at_most(self.among, task.records.y.cpu(), forgotten) if self.search == "best_of" else 1
        nearest = nearest_retained(task, gone, left, self.space, demand.original, k)
        table, mapping = nearest[:, :1], forgotten.mapping(nearest[:, 0])
        if self.search == "best_of":
            rng = generator(demand.seed, "repudiation", "substitutes")
            drawn = torch.randint(k, (len(gone), self.candidates), generator=rng)
            table = torch.cat([table, nearest.gather(1, drawn)], dim=1)

        def replaced(steps: Sequence[Step]) -> list[list[Tensor]]:
            shown = [forgotten.replaced(step.batch, table) for step in steps]
            return [list(choice) for choice in zip(*shown, strict=True)]

        def dropped(steps: Sequence[Step]) -> list[list[Tensor]]:
            found = []
            for step in steps:
                left_over = step.batch[~forgotten.mask[step.batch]]
                found.append(left_over if len(left_over) else mapping[step.batch])
            return [found]

        return dropped if self.search == "drop" else replaced


def _at_most(among: int, labels: Tensor, forgotten: Forgotten) -> int:
    """`among`, or as many records as are left of each deleted record's class."""
    classes = labels[forgotten.gone].unique()
    counts = torch.bincount(labels[forgotten.left], minlength=int(labels.max()) + 1)[classes]
    return max(1, min(among, int(counts.min())))
