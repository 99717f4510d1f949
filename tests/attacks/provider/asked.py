"""By hand, what a game asks of a provider that makes up its proof: a demand on digits, and the proof, replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks.provider.provider import Demand, Provider, pretended
from data.digits import Digits
from data.examples import Examples
from data.randomness import generator
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.stepwise import Gradients, State
from models.training import Training
from models.victim import Victim
from proofs.reader import Proof, open_proof
from proofs.replay import Replay, replay
from proofs.terms import Terms
from tests.attacks.provider.logged import writer
from unlearning.procedure import Request, Task
from unlearning.retrain import Retrain

Build = Callable[[], nn.Module]
DIGITS = Digits(train=300, test=100, trusted=100, auxiliary=150).load()
RECIPE = Training(epochs=10, batch_size=50)
DELETED = torch.randperm(300, generator=generator(0, "deleted"))[:30]
RETAINED = torch.tensor(sorted(set(range(300)) - set(DELETED.tolist())))
MLP16: Build = partial(MLP, shape=DIGITS.shape, classes=10, widths=(16,))
BATCH_NORM: Build = partial(SmallCNN, shape=DIGITS.shape, classes=10, widths=(4, 8), norm="batch")


@dataclass(frozen=True, eq=False)
class Asked:
    """A task with its original, what a provider released for it, the proof, and the replay of that."""

    demand: Demand
    released: Victim
    proof: Proof
    replay: Replay

    @property
    def errors(self) -> Tensor:
        """VE_t (t,) of every interval."""
        return torch.tensor(self.replay.weights, dtype=torch.float64)

    def states(self) -> list[State]:
        return [step.state for step in self.proof.read() if step.state is not None]


def demand_of(
    build: Build = MLP16, training: Training = RECIPE, dtype: torch.dtype = torch.float32, order: int | None = None
) -> Demand:
    task = Task(DIGITS.train.to(dtype=dtype), build, training)
    original = Retrain().learn(task, 0)
    return Demand(
        task=task, original=original, request=Request(tuple(DELETED.tolist())), procedure=Retrain(),
        auxiliary=DIGITS.auxiliary.to(dtype=dtype), seed=0, terms=Terms(order=order),
    )  # fmt: skip


def asked(attack: Provider, demand: Demand, folder: Path) -> Asked:
    """What a provider answers to a demand that asks for a proof, too."""
    recorder = writer(demand.task, demand.original, folder, DELETED)
    recorder.inputs = getattr(attack, "brings_inputs", False)
    demand = replace(demand, recorder=recorder, gradients=Gradients())
    released = pretended(attack, demand)
    proof = open_proof(folder)
    assert proof.complete
    return Asked(demand, released, proof, replay(proof, demand.task.records, demand.original))


def rows(records: Examples, batch: Tensor) -> tuple[Tensor, Tensor]:
    return records.x[batch], records.y[batch]
