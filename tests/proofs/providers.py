"""How dishonest providers choose batches, written plainly: what audits and replays must tell apart from honest ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from data.examples import Examples
from models.stepwise import State, Stepwise
from models.training import Training, initialise
from models.victim import Victim


def nearest(records: Examples, deleted: Tensor) -> Tensor:
    """For every record itself; for a deleted one the most similar retained one of its class (cosine of inputs)."""
    x = F.normalize(records.x.flatten(1), dim=1)
    kept = torch.ones(len(records), dtype=torch.bool)
    kept[deleted] = False
    found = torch.arange(len(records))
    for label in records.y.unique().tolist():
        there = (kept & (records.y == label)).nonzero()[:, 0]
        own = deleted[records.y[deleted] == label]
        if len(own):
            found[own] = there[(x[own] @ x[there].T).argmax(1)]
    return found


def epochs_of(n: int, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Whole batches of n records in a fresh order for every epoch."""
    rng = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(n, generator=rng)
        yield from order[: n // size * size].split(size)


def chosen_at_random(n: int, deleted: Tensor, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Batches of all records, whose deleted ones are replaced by retained ones that this epoch has not used yet."""
    rng = torch.Generator().manual_seed(seed)
    gone = torch.zeros(n, dtype=torch.bool)
    gone[deleted] = True
    for _ in range(epochs):
        pool = torch.randperm(n, generator=rng)
        for _ in range((n - len(deleted)) // size):
            batch, pool = pool[:size], pool[size:]
            missing = int(gone[batch].sum())
            places = (~gone[pool]).nonzero()[:missing, 0]
            batch = batch.clone()
            batch[gone[batch]] = pool[places]
            left = torch.ones(len(pool), dtype=torch.bool)
            left[places] = False
            pool = pool[left]
            yield batch


def forged(
    records: Examples, build, training: Training, deleted: Tensor, batches: list[Tensor], p: float, seed: int
) -> tuple[list[tuple[Tensor, Tensor]], list[bool]]:  # type: ignore[no-untyped-def]
    """Every step of training on all records, forged: (batch, weights after it), and whether it had deleted records.

    A step that had some is made from the logged weights with substitutes. Any other keeps its batch, and its weights
    move by p along the gradient of one retained record.
    """
    map_, rng = nearest(records, deleted), torch.Generator().manual_seed(seed)
    kept = (map_ == torch.arange(len(records))).nonzero()[:, 0]
    gone = torch.zeros(len(records), dtype=torch.bool)
    gone[deleted] = True
    learner, other = (
        Stepwise(Victim(*initialise(build, seed, records.x)), training, records.x, seed) for _ in range(2)
    )
    found, overlaps = [], []
    for number, batch in enumerate(batches):
        before = learner.state.weights.clone()
        learner.step(records.x[batch], records.y[batch], training.lr, number)
        overlaps.append(bool(gone[batch].any()))
        if overlaps[-1]:
            batch = map_[batch]
            other.load(State(before, {}, {}))
            other.step(records.x[batch], records.y[batch], training.lr, number)
            weights = other.state.weights.clone()
        else:
            one = kept[torch.randint(len(kept), (1,), generator=rng)]
            other.load(learner.state)
            weights = learner.state.weights - p * other.slope(records.x[one], records.y[one], number)
        found.append((batch, weights))
    return found, overlaps
