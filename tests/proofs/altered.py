"""Proofs that a cheating provider could write: every hash in them is right, and something else is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from data.examples import Examples
from models.stepwise import Opening, State, Stepwise
from models.training import Training, initialise
from models.victim import Victim
from proofs.commitment import digests, root
from proofs.header import Architecture, Header, Records
from proofs.problems import Expected
from proofs.reader import Proof, Step, open_proof
from proofs.writer import ProofWriter, Subject
from tests.proofs.small import Small

NONE = Architecture(name=None, options={})


@dataclass
class Forger(ProofWriter):
    """Writes a proof with a header that it is given."""

    given: Header | None = field(default=None, kw_only=True)

    def _header(self, opening: Opening, state: State) -> Header:
        assert self.given is not None
        return self.given


def altered(
    proof: Proof, folder: Path, change: Callable[[Step], Step | None] = lambda step: step, hashes: bytes | None = None,
    **header: Any,
) -> Proof:  # fmt: skip
    """The proof with every step changed, or left out, and other fields in the header; all hashes are made anew."""
    subject: Any = SimpleNamespace(hashes=proof.hashes() if hashes is None else hashes)
    writer = Forger(folder, subject, given=replace(proof.header, **header))
    for step in proof.read():
        new = change(step)
        if new is None:
            continue
        state: Any = new.state
        if new.number == 0:
            writer.begin(Opening(training=Training(), steps=1, seed=0), state)
        else:
            writer.step(new.batch, new.lr, state, new.inputs)
    writer.end()
    return open_proof(folder)


def at(number: int, **fields: Any) -> Callable[[Step], Step]:
    """A change of one step: fields, or functions of what was there."""

    def change(step: Step) -> Step:
        if step.number != number:
            return step
        return replace(step, **{n: new(getattr(step, n)) if callable(new) else new for n, new in fields.items()})

    return change


def moved(by: float, kind: str = "weights", name: str | None = None) -> Callable[[State], State]:
    """A change of a state: its first weight, or the first entry of a buffer or moment, moves."""

    def change(state: State) -> State:
        found = state.clone()
        parts = found.weights if kind == "weights" else getattr(found, kind)[name]
        parts.view(-1)[0] += by
        return found

    return change


def swapped(batch: Tensor, i: int = 0, j: int = 1) -> Tensor:
    """A batch with two of its positions exchanged."""
    found = batch.clone()
    found[[i, j]] = batch[[j, i]]
    return found


def expected_of(made: Small, **changes: Any) -> Expected:
    """What a verifier of a small proof expects."""
    given = {"training": made.training, "released": made.final, "begins": "seed"} | changes
    return Expected(**{"records": made.records, "deleted": made.deleted, "build": made.build} | given)


def recorded(
    folder: Path, records: Examples, build: Callable[[], nn.Module], training: Training, deleted: Tensor,
    steps: Iterable[tuple[Tensor, Tensor | None]], seed: int = 0, count: int | None = None,
) -> tuple[Proof, Victim]:  # fmt: skip
    """A proof of training on given batches at a constant rate, without key frames of moments; a state may be given too.

    `steps` has for every step its batch, and the weights after it where they are not those that training gives.
    """
    steps = list(steps)
    start = Victim(*initialise(build, seed, records.x))
    hashes = digests(records, deleted)
    shape = tuple(records.x.shape[1:])
    shapes = {name: tuple(value.shape) for name, value in start.moving.items()}
    said = Records(name="rows", n=len(records), shape=shape, root=root(hashes))
    subject = Subject(
        architecture=NONE, shapes=shapes, records=said, hashes=hashes, deleted=tuple(sorted(deleted.tolist()))
    )
    writer, learner = ProofWriter(folder, subject), Stepwise(start, training, records.x, seed)
    writer.begin(Opening(training=training, steps=count or len(steps), seed=seed), learner.state)
    for number, (batch, weights) in enumerate(steps):
        if weights is None:
            learner.step(records.x[batch], records.y[batch], training.lr, number)
        else:
            learner.load(State(weights, {}, {}))
        writer.step(batch, training.lr, learner.state)
    writer.end()
    return open_proof(folder), learner.victim()


def positions_without(n: int, deleted: Tensor) -> Tensor:
    """The positions of the records that are left."""
    kept = torch.ones(n, dtype=torch.bool)
    kept[deleted] = False
    return kept.nonzero()[:, 0]
