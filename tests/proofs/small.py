"""Small valid proofs: a model in training, every step of which is taken down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from data.examples import Examples
from models.mlp import MLP
from models.plan import Plan, follow
from models.small_cnn import SmallCNN
from models.stepwise import Opening, State, Stepwise
from models.training import Training, initialise
from models.victim import Victim
from proofs.commitment import digests, root
from proofs.header import Architecture, Records
from proofs.reader import Proof, open_proof
from proofs.writer import ProofWriter, Subject

RECIPE = Training(epochs=3, batch_size=5, lr=0.1, momentum=0.9, weight_decay=1e-3, schedule="cosine")
TABLE = Architecture(name="mlp.MLP", options={"widths": [3], "activation": "tanh", "dropout": 0.0})
IMAGES = Architecture(name="small_cnn.SmallCNN", options={"widths": [2], "norm": "batch"})
KINDS: dict[str | None, Callable[..., nn.Module]] = {TABLE.name: MLP, IMAGES.name: SmallCNN}


@dataclass
class Both:
    """A recorder that remembers, and hands on."""

    writer: ProofWriter
    states: list[State] = field(default_factory=list)
    batches: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    inputs: Callable[[Tensor], Tensor] | None = None

    def begin(self, opening: Opening, state: State) -> None:
        self.states.append(state.clone())
        self.writer.begin(opening, state)

    def step(self, batch: Tensor, lr: float, state: State, inputs: Tensor | None = None) -> None:
        self.states.append(state.clone())
        self.batches.append(batch.clone())
        self.rates.append(lr)
        self.writer.step(batch, lr, state, self.inputs(batch) if self.inputs else inputs)

    def end(self) -> None:
        self.writer.end()


@dataclass(frozen=True, eq=False)
class Small:
    """A proof with everything that it is about."""

    folder: Path
    records: Examples
    build: Callable[[], nn.Module]
    training: Training
    deleted: Tensor
    seed: int
    start: Victim
    final: Victim
    kept: Both
    classes: int

    @property
    def proof(self) -> Proof:
        return open_proof(self.folder)


def rows(n: int = 22, shape: Sequence[int] = (4,), classes: int = 3) -> Examples:
    rng = torch.Generator().manual_seed(5)
    return Examples(torch.randn(n, *shape, generator=rng), torch.randint(classes, (n,), generator=rng))


def small(
    folder: Path, training: Training = RECIPE, records: Examples | None = None, architecture: Architecture = TABLE,
    every: int = 1, key: int = 4, deleted: Sequence[int] = (3, 17), seed: int = 7, order: int | None = None,
    inputs: bool = False, start: Victim | None = None, classes: int = 3, name: str = "rows",
) -> Small:  # fmt: skip
    """Train on all but the `deleted` records, and have it written down in `folder`."""
    records = rows(shape=(4,) if architecture is TABLE else (1, 4, 4)) if records is None else records
    shape = tuple(records.x.shape[1:])
    build = partial(KINDS[architecture.name], shape=shape, classes=classes, **architecture.options)
    begins = "seed" if start is None else "model"
    start = Victim(*initialise(build, seed, records.x)) if start is None else start
    gone = torch.tensor(sorted(deleted), dtype=torch.long)
    left = torch.tensor([i for i in range(len(records)) if i not in set(deleted)])
    hashes = digests(records, gone)
    subject = Subject(
        architecture=architecture, shapes={name: tuple(value.shape) for name, value in start.moving.items()},
        records=Records(name=name, n=len(records), shape=shape, root=root(hashes)), hashes=hashes,
        deleted=tuple(gone.tolist()), order=order,
    )  # fmt: skip
    plan = Plan(training, len(left))
    opening = Opening(training=training, steps=plan.steps, seed=seed, begins=begins)
    kept = Both(ProofWriter(folder, subject, every, key, inputs), inputs=(lambda b: records.x[b]) if inputs else None)
    learner = Stepwise(start, training, records.x, seed)
    batches = plan.batches(left, seed if order is None else order)
    final = follow(learner, records, plan, batches, opening, kept)
    return Small(folder, records, build, training, gone, seed, start, final, kept, classes)
