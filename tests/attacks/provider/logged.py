"""By hand, what a game gives a provider: the original with the log of its training, and a demand to forget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attacks.provider.provider import Demand, Provider, pretended
from models.plan import Plan, follow
from models.stepwise import Gradients, Opening, Stepwise
from models.victim import Victim
from proofs.commitment import digests, root
from proofs.header import Architecture, Records
from proofs.reader import Proof, Step, open_proof
from proofs.replay import Replay, replay
from proofs.writer import ProofWriter, Subject
from unlearning.procedure import Request, Task
from unlearning.provable import drawn
from unlearning.retrain import Retrain

NOBODY = torch.empty(0, dtype=torch.long)


def writer(task: Task, victim: Victim, folder: Path, deleted: Tensor, every: int = 1, key: int = 50) -> ProofWriter:
    hashes, n = digests(task.records, deleted), len(task.records)
    subject = Subject(
        architecture=Architecture(name=None, options={}),
        shapes={name: tuple(value.shape) for name, value in victim.moving.items()},
        records=Records(name="data", n=n, shape=tuple(task.records.x.shape[1:]), root=root(hashes)),
        hashes=hashes,
        deleted=tuple(sorted(deleted.tolist())),
    )
    return ProofWriter(folder, subject, every, key)


@dataclass(frozen=True, eq=False)
class Logged:
    """An original with its log, in `folder`."""

    task: Task
    victim: Victim
    log: Proof
    folder: Path
    seed: int

    def demand(self, deleted: Tensor, proves: bool = True, name: str = "proof") -> Demand:
        header = self.log.header
        recorder = writer(self.task, self.victim, self.folder / name, deleted, header.every, header.key)
        return Demand(
            task=self.task, original=self.victim, request=Request(tuple(deleted.tolist())), procedure=Retrain(),
            auxiliary=self.task.records[:1], seed=self.seed, recorder=recorder if proves else None, log=self.log,
            gradients=Gradients(),
        )  # fmt: skip

    def shown(self, attack: Provider, deleted: Tensor, name: str = "proof") -> Shown:
        """What a provider answers, with its proof, which is replayed."""
        demand = self.demand(deleted, name=name)
        released = pretended(attack, demand)
        proof = open_proof(self.folder / name)
        errors = replay(proof, self.task.records, self.victim)
        return Shown(self, deleted, released, proof, errors, demand.gradients.count)


@dataclass(frozen=True, eq=False)
class Shown:
    """What a provider answered: the released model, a proof, with the replay of it, and its gradient evaluations."""

    logged: Logged
    deleted: Tensor
    released: Victim
    proof: Proof
    replay: Replay
    gradients: int

    @property
    def errors(self) -> Tensor:
        """VE_t (t,) of every interval."""
        return torch.tensor(self.replay.weights, dtype=torch.float64)

    @property
    def overlaps(self) -> Tensor:
        """Whether a batch of the log has deleted records (t + 1,); false for the state before the first step."""
        mask = torch.zeros(len(self.logged.task.records), dtype=torch.bool)
        mask[self.deleted] = True
        return torch.tensor([bool(mask[step.batch].any()) for step in self.logged.log.read()])

    @property
    def shifts(self) -> Tensor:
        """|| w'_t - w_t || (t + 1,) between the states of the proof and those of the log, at every checkpoint."""
        pairs = zip(self.proof.read(), self.logged.log.read(), strict=True)
        return torch.tensor([_apart(ours, theirs) for ours, theirs in pairs if ours.state is not None]).double()

    def batches(self) -> list[list[int]]:
        return [step.batch.tolist() for step in self.proof.read(1)]


def _apart(one: Step, other: Step) -> float:
    assert one.state is not None
    assert other.state is not None
    return float((one.state.weights - other.state.weights).norm())


def logged(task: Task, folder: Path, seed: int = 0, every: int = 1, key: int = 50) -> Logged:
    """Train on all records, in whole batches and one that is not, with a log."""
    start, n = drawn(task, seed), len(task.records)
    plan = Plan(task.training, n, ragged=True)
    learner = Stepwise(start, task.training, task.records.x, seed)
    opening = Opening(training=task.training, steps=plan.steps, seed=seed)
    recorder = writer(task, start, folder / "log", NOBODY, every, key)
    victim = follow(learner, task.records, plan, plan.batches(torch.arange(n), seed), opening, recorder)
    return Logged(task, victim, open_proof(folder / "log"), folder, seed)
