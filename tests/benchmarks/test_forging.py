"""Forging a log of training, and verifying what was forged: MNIST, the MLP 784-32-32-10, batches of 128, one thread.

Plain loops do what published scripts do. Every step has a checkpoint file of its own, model and optimiser by
torch.save, which both the forger and the verifier load; they fetch the examples of a batch one by one through Pillow,
and collate them. Both sides have the substitutes ready (`test_providers.py` measures finding them), and forge the same
steps. Hashing the data set, which is done once, is not a part of a step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import default_collate

from attacks.provider.forging import Forging
from attacks.provider.neighbours import random_retained
from data.examples import Data
from data.randomness import generator
from models.training import Training
from proofs.reader import open_proof
from proofs.replay import replay
from proofs.writer import ProofWriter
from tests.attacks.provider.logged import Logged, logged
from tests.benchmarks.machine import Paired, gigaflops, in_turn
from tests.benchmarks.test_training import ThroughPillow
from unlearning.provable import retained
from unlearning.task import Task

RECIPE = Training(epochs=1, batch_size=128, lr=0.005, momentum=0.0, weight_decay=0.0, schedule="constant")
RATE, DELETED, PLAIN = 1e-3, 1000, 40  # the plain loops do so many steps
ATTACK = Forging(search="random_class", perturbation=RATE)


class Plainly:
    """Forging and verification with a file for every step."""

    def __init__(self, folder: Path, build: Callable[[], nn.Module], images: ThroughPillow) -> None:
        self.folder, self.images, self.model = folder, images, build()
        self.optimizer = torch.optim.SGD(self.model.parameters(), RECIPE.lr)

    def save(self, kind: str, step: int) -> None:
        (self.folder / kind).mkdir(exist_ok=True)
        both = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(both, self.folder / kind / f"{step}.pth")

    def load(self, kind: str, step: int) -> None:
        both = torch.load(self.folder / kind / f"{step}.pth", weights_only=True)
        self.model.load_state_dict(both["model"])
        self.optimizer.load_state_dict(both["optimizer"])

    def descend(self, positions: list[int]) -> None:
        x, y = default_collate([self.images[i] for i in positions])
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()

    def write_log(self, batches: list[list[int]]) -> None:
        self.save("log", 0)
        for step, batch in enumerate(batches, start=1):
            self.descend(batch)
            self.save("log", step)

    def forge(self, batches: list[list[int]], instead: dict[int, int], drawn: Iterator[int]) -> int:
        self.load("log", 0)
        self.save("forged", 0)
        for step, batch in enumerate(batches, start=1):
            if set(batch) & set(instead):
                self.load("log", step - 1)
                self.descend([instead.get(i, i) for i in batch])
            else:
                self.load("log", step)
                self.optimizer.param_groups[0]["lr"] = RATE
                self.descend([next(drawn)])
                self.optimizer.param_groups[0]["lr"] = RECIPE.lr
            self.save("forged", step)
        return len(batches)

    def verify(self, batches: list[list[int]], instead: dict[int, int]) -> list[float]:
        errors = []
        for step, batch in enumerate(batches, start=1):
            self.load("forged", step)
            there = nn.utils.parameters_to_vector(self.model.parameters()).detach()
            self.load("forged", step - 1)
            self.descend([instead.get(i, i) for i in batch])
            errors.append(float((nn.utils.parameters_to_vector(self.model.parameters()).detach() - there).norm()))
        return errors


def test_forging(benchmark: Any, mnist: Data, build: Any, report: Any, tmp_path: Path) -> None:
    """Forging and verification of a step together are at least 10 x faster."""
    records = mnist.train
    of: Logged = logged(Task(records, build, RECIPE), tmp_path)
    deleted = torch.randperm(len(records), generator=generator(0, "deleted"))[:DELETED].sort().values
    left = retained(of.task, deleted)
    chosen = random_retained(of.task, deleted, left, generator(0, "forging", "substitutes"))[:, 0]
    instead = dict(zip(deleted.tolist(), chosen.tolist(), strict=True))
    batches = [step.batch.tolist() for step in of.log.read(1, PLAIN)]
    pixels = (records.x * mnist.std + mnist.mean).mul(255).round().to(torch.uint8).squeeze(1)
    plain = Plainly(tmp_path, build, ThroughPillow(pixels, records.y, (float(mnist.mean),), (float(mnist.std),)))
    start = of.log.at(0).state
    assert start is not None
    nn.utils.vector_to_parameters(start.weights, plain.model.parameters())
    plain.write_log(batches)
    names = count()

    def drawn() -> Iterator[int]:
        for step, batch in enumerate(batches, start=1):
            if not set(batch) & set(instead):
                rng = generator(0, "forging", "perturbation", step)
                yield int(left[torch.randint(len(left), (1,), generator=rng)])

    demand = of.demand(deleted)
    assert isinstance(demand.recorder, ProofWriter)
    subject = demand.recorder.subject

    def forge() -> int:
        folder = tmp_path / f"proof{next(names)}"
        ATTACK.pretend(replace(demand, recorder=ProofWriter(folder, subject)))
        if folder.name != "proof0":
            shutil.rmtree(folder)
        return of.log.steps

    forge()
    proof = open_proof(tmp_path / "proof0")
    plain.forge(batches, instead, drawn())
    errors = replay(proof, records, of.victim).weights[:PLAIN]
    assert errors == pytest.approx(plain.verify(batches, instead), abs=1e-6)  # the same but for rounding
    runs = in_turn(
        {
            "forging": forge,
            "verification": lambda: len(replay(proof, records, of.victim).steps),
            "plain forging": lambda: plain.forge(batches, instead, drawn()),
            "plain verification": lambda: len(plain.verify(batches, instead)),
        }
    )  # fmt: skip
    ours, theirs = (
        [
            sum(pair)
            for pair in zip(*(runs.seconds[f"{kind}{what}"] for what in ("forging", "verification")), strict=True)
        ]
        for kind in ("", "plain ")
    )
    ratio = Paired({"plain": theirs, "ours": ours}).ratio("plain", "ours")
    report(
        "Forging a log of MNIST, microseconds for a step",
        {name: f"{1e6 * runs.median(name):.0f}" for name in runs.seconds}
        | {
            "plain / ours, forging": f"{runs.ratio('plain forging', 'forging'):.1f} x",
            "plain / ours, verification": f"{runs.ratio('plain verification', 'verification'):.1f} x",
            "plain / ours, together": f"{ratio:.1f} x",
            "a large matrix product": gigaflops(),
        },
    )
    benchmark.extra_info["plain / ours"] = ratio
    benchmark.pedantic(forge, rounds=1)
    shutil.rmtree(tmp_path)
    assert ratio >= 10
