"""Cases with a proof: a provider that forgets 20 of 200 digits by a procedure, and what owners then have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.digits import Digits
from data.examples import Data
from defenses.verification.verification import Case
from models.mlp import MLP
from models.training import Training
from models.victim import Victim
from proofs.commitment import digests, root
from proofs.header import Architecture, Records
from proofs.reader import Proof, open_proof
from proofs.terms import Terms
from proofs.writer import ProofWriter, Subject
from unlearning.procedure import Procedure, Task
from unlearning.provable import Account, Provable
from unlearning.retrain import Retrain
from unlearning.service import Predictor

DELETED = torch.arange(5, 200, 10)


@dataclass(frozen=True, eq=False)
class World:
    """The data, the recipe, and the model that learned everything."""

    data: Data
    task: Task
    original: Victim


def world(training: Training | None = None, build: Any = None) -> World:
    data = Digits(train=200, test=50, trusted=50).load()
    build = build or partial(MLP, shape=data.shape, classes=10, widths=[12])
    task = Task(data.train, build, training or Training(epochs=3, batch_size=30))
    return World(data, task, Retrain().learn(task, 0))


def writer(world: World, folder: Path, deleted: Tensor, order: int | None = None, every: int = 1) -> ProofWriter:
    records = world.task.records
    hashes = digests(records, deleted)
    said = Records(name="digits", n=len(records), shape=world.data.shape, root=root(hashes))
    shapes = {name: tuple(value.shape) for name, value in world.original.moving.items()}
    architecture = Architecture(name=None, options={})
    subject = Subject(
        architecture=architecture, shapes=shapes, records=said, hashes=hashes, deleted=tuple(deleted.tolist()),
        order=order,
    )  # fmt: skip
    return ProofWriter(folder, subject, every, 5)


def forgotten(world: World, folder: Path, procedure: Procedure | None = None, order: int | None = None) -> Case:
    """An honest provider, who forgets by a procedure and writes it down."""
    procedure = procedure or Retrain()
    assert isinstance(procedure, Provable)
    account = Account(writer(world, folder, DELETED, order), order)
    after = procedure.forget_provably(world.task, world.original, DELETED, 0, account)
    return case(world, after, open_proof(folder), procedure, order)


def case(
    world: World, after: Victim, proof: Proof | None, procedure: Procedure | None = None, order: int | None = None
) -> Case:  # fmt: skip
    """What the owners of the deleted digits have."""
    shown, before = Predictor([after]), Predictor([world.original])
    return Case(
        task=world.task, data=world.data, users=tuple(DELETED.split(5)), before=before, after=shown,
        trusted=world.data.trusted, seed=7, procedure=procedure or Retrain(), terms=Terms(order), model=after,
        model_before=world.original, proof=proof,
    )  # fmt: skip


def of(case: Case, proof: Proof) -> Case:
    """The same with another proof."""
    return replace(case, proof=proof)
