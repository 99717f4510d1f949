"""Working on a log of training interval by interval: every one is made again from the state that the log itself has.

Errors of one interval are therefore never carried into the next. One interval is held at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.provider.provider import Demand
from models.stepwise import Gradients, State, Stepwise
from models.victim import Victim, forward, unflatten
from proofs.reader import Proof, Step
from unlearning.provable import retained


def intervals(log: Proof, first: int = 0) -> Iterator[tuple[State, list[Step]]]:
    """From checkpoint `first` on every interval of a log: the state before it, and the steps to the next checkpoint.

    Of these only the last has a state. Raises `proofs.reader.Damaged`.
    """
    before: State | None = None
    steps: list[Step] = []
    for step in log.read(first):
        if step.number > first:
            steps.append(step)
        if step.state is None:
            continue
        if before is not None:
            yield before, steps
        before, steps = step.state, []


@dataclass(frozen=True, eq=False)
class Forgotten:
    """What may stand in no batch: `mask` (n,) is true for it, `gone` (d,) are its positions, `left` (r,) the others."""

    mask: Tensor
    gone: Tensor
    left: Tensor

    @classmethod
    def of(cls, demand: Demand) -> Forgotten:
        """The records that a request names, and those forgotten before."""
        left = retained(demand.task, torch.tensor(demand.request.indices, dtype=torch.long))
        mask = torch.ones(len(demand.task.records), dtype=torch.bool)
        mask[left] = False
        return cls(mask, mask.nonzero()[:, 0], left)

    def touches(self, steps: Iterable[Step]) -> bool:
        """Whether a batch of these steps has any of it."""
        return any(bool(self.mask[step.batch].any()) for step in steps)

    def mapping(self, substitutes: Tensor) -> Tensor:
        """A map (n,) of positions to positions: `gone` to their `substitutes` (d,), all others to themselves."""
        found = torch.arange(len(self.mask))
        found[self.gone] = substitutes
        return found

    def replaced(self, batch: Tensor, substitutes: Tensor) -> list[Tensor]:
        """For every column of `substitutes` (d, k) the batch with them in the place of `gone`, and else the same."""
        found = batch.repeat(substitutes.shape[1], 1)
        out = self.mask[batch]
        found[:, out] = substitutes[torch.searchsorted(self.gone, batch[out])].T
        return list(found)


class Anchored:
    """Makes intervals of `demand.log` again, with other batches, from the states that stand in it.

    Weights and buffers come from the log. So do the optimiser's moments at key frames; between them they are carried
    from interval to interval by whoever calls `run` last. `gradients` counts gradient evaluations; there is no descent
    from state to state, so updates of weights are not the provider's.
    """

    def __init__(self, demand: Demand) -> None:
        assert demand.log is not None
        header = demand.log.header
        self._records, self._victim, self.gradients = demand.task.records, demand.original, Gradients()
        training = header.recipe.training()
        self._learner = Stepwise(self._victim, training, self._records.x, header.seed, self.gradients)
        self.carries = bool(header.moments.names)

    def at(self, before: State) -> State:
        """A state of the log with the moments that belong to it, which `run` leaves alone."""
        if not self.carries:
            return before
        self._learner.load(before)
        now = self._learner.state.moments
        return State(before.weights, before.buffers, {name: value.clone() for name, value in now.items()})

    def run(self, begin: State, steps: Sequence[Step], batches: Sequence[Tensor]) -> State:
        """The state after `steps` from `begin` with these batches; it changes with the next run."""
        self._learner.load(begin)
        for step, batch in zip(steps, batches, strict=True):
            rows = batch.to(self._records.y.device)
            x, y = self._records.x.index_select(0, rows), self._records.y.index_select(0, rows)
            self._learner.step(x, y, step.lr, step.number - 1)
        return self._learner.state

    def closest(
        self, begin: State, steps: Sequence[Step], candidates: Sequence[Sequence[Tensor]]
    ) -> tuple[Sequence[Tensor], State]:
        """Of several choices of batches the one that leads nearest to the logged weights after `steps`, with its state.

        The distance is the l2 norm. The first of equals; a single choice is not measured.
        """
        if len(candidates) == 1:
            return candidates[0], self.run(begin, steps, candidates[0])
        goal = steps[-1].state
        assert goal is not None
        best: tuple[Sequence[Tensor], State] | None = None
        least = float("inf")
        for batches in candidates:
            state = self.run(begin, steps, batches)
            distance = float((state.weights - goal.weights.to(state.weights)).norm())
            if best is None or distance < least:
                best, least = (batches, state.clone()), distance
        assert best is not None
        return best

    def honest(self, begin: State, steps: Sequence[Step]) -> State:
        """The logged state after `steps`; where the log lacks its moments, the steps are made as they were for them."""
        after = steps[-1].state
        assert after is not None
        if not self.carries or after.moments:
            return after
        moments = self.run(begin, steps, [step.batch for step in steps]).moments
        return State(after.weights, after.buffers, moments)

    def slope(self, state: State, position: int) -> Tensor:
        """The gradient (p,) of the loss of one record at `state`, in evaluation mode, without weight decay."""
        self.gradients.count += 1
        flat = state.weights.to(self._records.x, copy=True).requires_grad_()
        buffers = {**self._victim.buffers, **{name: value.to(flat.device) for name, value in state.buffers.items()}}
        x, y = (each[position : position + 1] for each in (self._records.x, self._records.y))
        logits = forward(self._victim.module, unflatten(flat, self._victim.moving), buffers, x)
        [found] = torch.autograd.grad(F.cross_entropy(logits, y), [flat])
        return self._victim.pruned(found).detach()

    def victim(self, state: State) -> Victim:
        """A state as a model."""
        like = self._victim
        parameters = unflatten(state.weights.to(self._records.x).clone(), like.moving)
        buffers = {name: value.to(self._records.x.device).clone() for name, value in state.buffers.items()}
        return Victim(like.module, parameters, {**like.buffers, **buffers}, mask=like.mask)
