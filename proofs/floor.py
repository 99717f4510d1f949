"""How far apart honest replays of a proof can be by rounding alone: the floor below which an error says nothing.

Source: the threshold just above the error of reproduction is that of Suliman et al. (arXiv 2411.05658). How the floor
is measured is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.examples import Examples
from data.randomness import generator
from models.behaviour import behaviour
from models.dropout import dropout_layers
from models.stepwise import State, Stepwise
from models.victim import Victim
from proofs.reader import Damaged, Proof
from proofs.writer import machine

SPANS, INTERVALS = 8, 8  # key frames from which is measured, and intervals after each of them
Distance = Literal["l2", "l1", "l_inf", "cosine"]
DISTANCES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "l2": lambda a, b: float((a - b).norm()),
    "l1": lambda a, b: float((a - b).abs().sum()),
    "l_inf": lambda a, b: float((a - b).abs().max()),
    "cosine": lambda a, b: max(0.0, 1 - float(a @ b) / max(float(a.norm() * b.norm()), 1e-300)),
}


def exact_here(proof: Proof, like: Tensor, workers: int) -> bool:
    """Whether the proof says that it was made on a machine like this one, where an honest replay has no error at all.

    On a GPU no order of additions is sure, so that there it is never said.
    """
    own = machine(like)
    if workers > 1 and not like.is_cuda:
        own = {**own, "threads": 1}  # of each worker
    return own["device"] == "cpu" and proof.header.machine == own


@dataclass(frozen=True)
class Floor:
    """The largest distances between two honest replays, and the gradient evaluations that it took to measure them."""

    weights: float
    buffers: float
    moments: float
    gradients: int


def floor(proof: Proof, records: Examples, victim: Victim, distance: Distance = "l2", seed: int = 0) -> Floor:
    """Replay some intervals of a proof twice, with the batches as they are and in another order within each.

    The two replays are compared with each other, in `distance` of the weights and in l2 of buffers and moments, and not
    with what the proof says: an error of the proof must not raise the floor that it is judged by. The intervals are the
    first ones after some key frames at equal distances; the floor is at least one rounding of the largest number. Where
    a model draws (dropout) what it draws goes by position, and a batch of one has no other order: there every input is
    moved to a number next to it in place of that.
    """
    training = proof.header.recipe.training()
    nudged = (
        bool(dropout_layers(victim.module)) or behaviour(victim.module, records.x).draws or training.batch_size == 1
    )
    pair = [Stepwise(victim, training, records.x, proof.header.seed) for _ in range(2)]
    found = [[0.0, 0.0, 0.0]]  # no gap that is no number is larger
    frames = range(0, max(1, proof.steps), proof.header.every * proof.header.key)
    for i in range(min(SPANS, len(frames))):
        first = frames[i * len(frames) // min(SPANS, len(frames))]
        last = min(first + INTERVALS * proof.header.every, first + frames.step, proof.steps)
        try:
            _measure(proof, records, pair, (first, last), nudged, distance, seed, found)
        except Damaged:
            continue
    largest = (max(each for each in kind if each < float("inf")) for kind in zip(*found, strict=True))
    weights, buffers, moments = largest
    return Floor(weights, buffers, moments, sum(each.gradients.count for each in pair))


def _measure(
    proof: Proof, records: Examples, pair: list[Stepwise], span: tuple[int, int], nudged: bool, distance: Distance,
    seed: int, found: list[list[float]],
) -> None:  # fmt: skip
    n = len(records)
    for step in proof.read(*span):
        if step.number == span[0]:
            for each in pair:
                assert step.state is not None  # a span begins with a key frame
                each.load(step.state)
            continue
        if bool(((step.batch < 0) | (step.batch >= n)).any()):
            return
        rng = generator(seed, "floor", step.number)
        order = torch.arange(len(step.batch)) if nudged else torch.randperm(len(step.batch), generator=rng)
        for each, rows in zip(pair, (step.batch, step.batch[order]), strict=True):
            other = each is pair[1]
            on = rows.to(records.y.device)
            own = step.inputs if not other or step.inputs is None else step.inputs[order]
            x = records.x.index_select(0, on) if own is None else own.to(records.x)
            if other and nudged:
                x = _nudged(x, rng)
            each.step(x, records.y.index_select(0, on), step.lr, step.number - 1)
        if step.state is not None:
            found.append(_gaps(pair[0].state, pair[1].state, distance))
            for each in pair:
                each.load(step.state, moments=False)


def _nudged(x: Tensor, rng: torch.Generator) -> Tensor:
    """Every number moved to one of the two next to it."""
    up = torch.rand(x.shape, generator=rng).to(x.device) < 0.5
    return torch.nextafter(x, torch.where(up, torch.inf, -torch.inf).to(x))


def _gaps(one: State, other: State, distance: Distance) -> list[float]:
    """Between two states: of the weights, of all buffers, of all moments; at least what one rounding makes of each."""
    apart = DISTANCES[distance](one.weights.double(), other.weights.double())
    least = torch.finfo(one.weights.dtype).eps if distance == "cosine" else _rounding(one.weights)
    rest = []
    for mine, theirs in ((one.buffers, other.buffers), (one.moments, other.moments)):
        squares = (float((mine[name].double() - value.double()).square().sum()) for name, value in theirs.items())
        numbers = [value for name, value in mine.items() if name != "step"]  # a count is exact
        rest.append(max((sum(squares) ** 0.5, *map(_rounding, numbers))))
    return [max(apart, least), *rest]


def _rounding(values: Tensor) -> float:
    """How far the largest of some numbers is from the next one; 0 for whole numbers."""
    if not values.is_floating_point() or not values.numel():
        return 0.0
    largest = values.abs().max()
    return float(torch.nextafter(largest, torch.full_like(largest, torch.inf)) - largest)
