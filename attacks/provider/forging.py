"""Forging the log of the original training: batches without the deleted records that lead to nearly the same states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.provider.anchored import Anchored, Forgotten, intervals
from attacks.provider.logs import opening_of
from attacks.provider.neighbours import Space, nearest_retained, random_retained
from attacks.provider.provider import Demand
from data.bounds import at_most
from data.randomness import generator
from models.stepwise import State
from models.victim import Victim
from proofs.reader import Step

Search = Literal["neighbours", "random_class", "best_of"]
Draw = Callable[[Sequence[Step]], list[list[Tensor]]]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Forging:
    """Turns the log of the original training into a proof of retraining, without any retraining.

    For every logged step t with batch b_t and state w_t, from the *logged* state before it:

        b_t has deleted records:  b'_t has substitutes in their places,  w'_t = U(w_{t-1}; b'_t)
        b_t has none:             b'_t = b_t,  w'_t = w_t - p grad l(w_t; z),  z a retained record drawn anew

    w'_0 = w_0, and w'_T is released: the original, but for what one step makes. Errors are not carried on: a verifier,
    who replays U(w'_{t-1}; b'_t), finds about ||w'_{t-1} - w_{t-1}||. Where a log has checkpoints at every k-th step
    only, intervals take the place of steps; a proof must have the checkpoints of the log. Batches are those of the log,
    whatever order a verifier chose.

    `search`: neighbours (every deleted record has one substitute, the most similar retained record of its class, in
    `space` pixels or features of the original), random_class (one drawn retained record of its class; a control), or
    best_of: `candidates` batches of retained records are drawn anew, and that one is taken from which the step ends
    nearest to the logged w_t. `perturbation` is p; with 0 steps without deleted records stay as they are. Its gradient
    is taken in evaluation mode, without weight decay. Batches keep their sizes, and may have a substitute twice.

    Optimisers with moments go on from those of the log. The log has them at key frames; between these the honest
    steps are made again to carry them, which is one more gradient for every step. At its key frames the proof gets the
    moments after the forger's own step, or those of the log where a step has no deleted records.

    Sources: neighbours and perturbation, Zhang, Chen, Shen, Li, "Verification of Machine Unlearning is Fragile", ICML
    2024; best_of, Thudi, Jia, Shumailov, Papernot, "On the Necessity of Auditable Algorithmic Definitions for Machine
    Unlearning", USENIX Security 2022. Intervals, moments and evaluation mode are ours.
    """

    game: ClassVar[str] = "verification"
    name: ClassVar[str] = "forging"
    needs_log: ClassVar[bool] = True

    search: Search = "neighbours"
    space: Space = "pixels"
    candidates: Annotated[int, Field(ge=1), at_most(100_000, "each takes a gradient of a batch")] = 50
    perturbation: Annotated[float, Field(ge=0)] = 1e-3

    def pretend(self, demand: Demand) -> Victim:
        """The model after the last forged step. Without a recorder only the last interval is forged.

        Raises UserError where a class of a deleted record has no retained record left.
        """
        log, recorder = demand.log, demand.recorder
        assert log is not None
        forgotten, anchored = Forgotten.of(demand), Anchored(demand)
        draw, released = self._drawing(demand, forgotten), demand.original
        stride = log.header.every * (log.header.key if anchored.carries else 1)
        first = 0 if recorder is not None else (log.steps - 1) // stride * stride
        if recorder is not None:
            state = log.at(0).state
            assert state is not None
            recorder.begin(opening_of(log), state)
        for before, steps in intervals(log, first):
            begin, last = anchored.at(before), steps[-1].number == log.steps
            if recorder is None and not last:
                anchored.honest(begin, steps)
                continue
            forged = forgotten.touches(steps)
            if forged:
                batches, state = anchored.closest(begin, steps, draw(steps))
            else:
                state = self._moved(anchored, anchored.honest(begin, steps), forgotten.left, demand.seed, steps[-1])
                batches = [step.batch for step in steps]
            if recorder is not None:
                for step, batch in zip(steps, batches, strict=True):
                    recorder.step(batch, step.lr, state)
            if last:
                released = anchored.victim(state)
            elif forged:
                anchored.honest(begin, steps)  # for the moments that the next interval begins with
        if recorder is not None:
            recorder.end()
        demand.gradients.count += anchored.gradients.count
        return released

    def _moved(self, anchored: Anchored, state: State, left: Tensor, seed: int, step: Step) -> State:
        """A logged state, moved a little along the gradient of one retained record."""
        if self.perturbation == 0:
            return state
        rng = generator(seed, "forging", "perturbation", step.number)
        slope = anchored.slope(state, int(left[torch.randint(len(left), (1,), generator=rng)]))
        return State(state.weights.to(slope) - self.perturbation * slope, state.buffers, state.moments)

    def _drawing(self, demand: Demand, forgotten: Forgotten) -> Draw:
        """What gives for an interval the choices of batches without deleted records."""
        if self.search == "best_of":
            return partial(self._drawn, demand, forgotten)
        gone, left = forgotten.gone, forgotten.left
        if self.search == "neighbours":
            substitutes = nearest_retained(demand.task, gone, left, self.space, demand.original)
        else:
            substitutes = random_retained(demand.task, gone, left, generator(demand.seed, "forging", "substitutes"))
        mapping = forgotten.mapping(substitutes[:, 0])
        return lambda steps: [[mapping[step.batch] for step in steps]]

    def _drawn(self, demand: Demand, forgotten: Forgotten, steps: Sequence[Step]) -> list[list[Tensor]]:
        """Of an interval several choices, with drawn batches for the steps that have deleted records."""
        rng = generator(demand.seed, "forging", "batches", steps[-1].number)
        choices: list[list[Tensor]] = []
        for step in steps:
            if forgotten.touches([step]):
                choices.append(_batches(forgotten.left, len(step.batch), self.candidates, rng))
            else:
                choices.append([step.batch] * self.candidates)
        return [list(choice) for choice in zip(*choices, strict=True)]


def _batches(left: Tensor, size: int, count: int, rng: torch.Generator) -> list[Tensor]:
    """`count` batches of `size` distinct records; those of one shuffle do not overlap, as in an epoch."""
    assert size <= len(left)  # the game sees to it
    found: list[Tensor] = []
    while len(found) < count:
        order = left[torch.randperm(len(left), generator=rng)]
        found += [batch for batch in order.split(size) if len(batch) == size]
    return found[:count]
