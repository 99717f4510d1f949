"""Replaying a proof: every step is made again from the logged state before it, and compared with the logged one after.

The verification error of an interval is VE_t = || U(w_{t-k}; b_{t-k+1}, ..., b_t) - w_t ||_2, from the state that the
proof itself has (Jia et al., IEEE S&P 2021). The moments of the optimiser are carried from key frame to key frame by
whoever replays, and compared there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, fields
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from data.examples import Examples
from models.progress import progress
from models.stepwise import State, Stepwise
from models.victim import Victim
from proofs.reader import Damaged, Proof


@dataclass
class Replay:
    """What a replay found, one entry for each interval that was replayed, in the order of steps.

    `steps` are the steps at which the intervals end. `weights` is VE in the weights, `buffers` the same over buffers
    that training changes (of integers: how far off), `moves` how far the weights moved in the interval, `l1`, `l_inf`
    and `cosine` (1 - the cosine) other distances to the logged weights. `moments` is how far the carried moments are
    off at `keys`, the key frames. `damaged` is the first step that is not what was written, `gradients` the gradient
    evaluations that were made.
    """

    steps: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    buffers: list[float] = field(default_factory=list)
    moves: list[float] = field(default_factory=list)
    l1: list[float] = field(default_factory=list)
    l_inf: list[float] = field(default_factory=list)
    cosine: list[float] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    damaged: tuple[int, str] | None = None
    gradients: int = 0

    @property
    def largest(self) -> float:
        """The largest error in weights, buffers or moments; infinite where a step is damaged."""
        if self.damaged is not None:
            return float("inf")
        return max((*self.weights, *self.buffers, *self.moments), default=0.0)


def replay(
    proof: Proof, records: Examples, victim: Victim, wanted: Sequence[int] | None = None, workers: int = 1,
    permuted: int | None = None,
) -> Replay:  # fmt: skip
    """Replay the intervals of a proof that end at the steps `wanted`, or all of them, on the device of `records`.

    `victim` gives the architecture. With several `workers` processes share the work, which is by key frames; they fork
    from this one, and so take no memory for records. With `permuted`, a seed, every batch is put in another order,
    which shows how far apart honest replays can be by rounding alone.
    """
    spans = _spans(proof, wanted)
    found = Replay()
    with progress("replaying the proof", len(spans)) as tick:
        for part in _worked(proof, records, victim, spans, workers, permuted, tick):
            _join(found, part)
    _sort(found, "steps", "weights", "buffers", "moves", "l1", "l_inf", "cosine")
    _sort(found, "keys", "moments")
    return found


def _sort(found: Replay, key: str, *others: str) -> None:
    """Put lists in the order of the first, whichever worker was done first."""
    order = sorted(range(len(getattr(found, key))), key=getattr(found, key).__getitem__)
    for name in (key, *others):
        setattr(found, name, [getattr(found, name)[i] for i in order])


@dataclass(frozen=True)
class _Span:
    """From `first`, a key frame where there are moments, to `last`; of its intervals those ending at `wanted` count."""

    first: int
    last: int
    wanted: frozenset[int] | None


def _spans(proof: Proof, wanted: Sequence[int] | None) -> list[_Span]:
    every = proof.header.every * proof.header.key
    checkpoints = proof.checkpoints()
    if len(checkpoints) < 2:
        return []
    last = checkpoints[-1]
    if wanted is None:
        return [_Span(first, min(first + every, last), None) for first in range(0, last, every)]
    found: dict[int, set[int]] = {}
    if not proof.header.moments.names:  # without moments to carry every checkpoint will do
        every = proof.header.every
    for step in wanted:
        found.setdefault((step - 1) // every * every, set()).add(step)
    return [_Span(first, max(ends), frozenset(ends)) for first, ends in sorted(found.items())]


def _worked(
    proof: Proof, records: Examples, victim: Victim, spans: Sequence[_Span], workers: int, permuted: int | None,
    tick: Callable[[], None],
) -> Iterator[Replay]:  # fmt: skip
    def work(span: _Span) -> Replay:
        return _replayed(proof, records, learner, span, permuted)

    learner = Stepwise(victim, proof.header.recipe.training(), records.x, proof.header.seed)
    if workers < 2 or len(spans) < 2 or records.x.is_cuda:
        for span in spans:
            yield work(span)
            tick()
        return
    with ProcessPoolExecutor(workers, get_context("fork"), _begin, (work,)) as pool:
        for done in as_completed([pool.submit(_work, span) for span in spans]):
            yield done.result()
            tick()


_task: Callable[[_Span], Replay] | None = None


def _begin(work: Callable[[_Span], Replay]) -> None:
    """In a worker: keep what the parent has made, which a fork shares."""
    global _task
    torch.set_num_threads(1)
    _task = work


def _work(span: _Span) -> Replay:
    assert _task is not None
    return _task(span)


def _replayed(proof: Proof, records: Examples, learner: Stepwise, span: _Span, permuted: int | None) -> Replay:
    found, began = Replay(), learner.gradients.count
    anchor: State | None = None
    try:
        for step in proof.read(span.first, span.last):
            if step.number == span.first:
                assert step.state is not None
                learner.load(step.state)
                anchor = step.state
                continue
            batch, inputs = step.batch, step.inputs
            if permuted is not None:
                shuffled = torch.randperm(len(batch), generator=torch.Generator().manual_seed(permuted + step.number))
                batch, inputs = batch[shuffled], None if inputs is None else inputs[shuffled]
            if bool((batch >= len(records)).any()) or bool((batch < 0).any()):
                raise Damaged(step.number, f"its batch names a record that is not there (of {len(records)})")
            rows = batch.to(records.y.device)
            x = records.x.index_select(0, rows) if inputs is None else inputs.to(records.x)
            learner.step(x, records.y.index_select(0, rows), step.lr, step.number - 1)
            if step.state is None:
                continue
            if span.wanted is None or step.number in span.wanted:
                assert anchor is not None
                _compare(found, step.number, learner.state, step.state, anchor)
            if step.state.moments:
                _compare_moments(found, step.number, learner.state, step.state)
            learner.load(step.state, moments=False)
            anchor = step.state
    except Damaged as damage:
        found.damaged = (damage.step, damage.what)
    found.gradients = learner.gradients.count - began
    return found


def _compare(found: Replay, step: int, own: State, logged: State, before: State) -> None:
    there = logged.weights.to(own.weights)
    gap = own.weights - there
    error = _norm(gap)
    found.steps.append(step)
    found.weights.append(error)
    found.moves.append(_norm(there - before.weights.to(there)))
    found.l1.append(float(gap.abs().sum(dtype=torch.float64)) if error else 0.0)
    found.l_inf.append(float(gap.abs().max()) if error else 0.0)
    found.cosine.append(_one_less_cosine(own.weights.double(), there.double()) if error else 0.0)
    found.buffers.append(_apart(own.buffers, logged.buffers))


def _one_less_cosine(own: Tensor, there: Tensor) -> float:
    lengths = float(own.norm() * there.norm())
    return 1 - float(own @ there) / lengths if lengths else 0.0


def _compare_moments(found: Replay, step: int, own: State, logged: State) -> None:
    found.keys.append(step)
    found.moments.append(_apart(own.moments, logged.moments))


def _apart(own: dict[str, Tensor], logged: dict[str, Tensor]) -> float:
    """The l2 distance over all of them; infinite where one is not finite."""
    total = sum(
        float((own[n].double() - value.to(own[n].device).double()).square().sum()) for n, value in logged.items()
    )
    return total**0.5 if total == total else float("inf")


def _norm(gap: Tensor) -> float:
    found = float(gap.norm())
    return found if found == found else float("inf")


def _join(found: Replay, part: Replay) -> None:
    for each in fields(Replay):
        value: Any = getattr(part, each.name)
        if isinstance(value, list):
            getattr(found, each.name).extend(value)
    found.gradients += part.gradients
    if part.damaged is not None and (found.damaged is None or part.damaged[0] < found.damaged[0]):
        found.damaged = part.damaged
