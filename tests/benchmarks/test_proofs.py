"""Proofs of training MNIST with the MLP 784-32-32-10 in batches of 128: what writing costs, and replaying in parallel.

Writing: checkpoints after every step, moments at every 50th. What the writer takes (hashing, and handing over to the
system) is measured inside of the runs that it slows down, against the steps beside it, and as the ratio to runs without
a proof. Replaying: two workers against one. Their start-up is that of a replay of two steps, and does not count.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from data.examples import Data
from models.plan import Plan, follow
from models.stepwise import Opening, Recorder, State, Stepwise
from models.training import Training
from proofs.replay import replay
from proofs.writer import ProofWriter
from tests.attacks.provider.logged import NOBODY, logged, writer
from tests.benchmarks.machine import Paired, gigaflops, in_turn
from unlearning.provable import drawn
from unlearning.task import Task

STEPS, WRITING, TWO_WORKERS = 234, 0.35, 1.7
PLAIN: dict[str, Any] = {"epochs": 1, "batch_size": 128, "lr": 0.005, "weight_decay": 5e-4, "schedule": "constant"}
RECIPES = {
    "plain SGD": Training(momentum=0.0, **PLAIN),
    "momentum": Training(momentum=0.9, **PLAIN),
    "Adam": Training(optimizer="adam", **PLAIN),
}


@dataclass
class Timed:
    """A recorder with a watch: the seconds that single steps took, of the writer and in all."""

    inner: Recorder
    own: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def begin(self, opening: Opening, state: State) -> None:
        self.inner.begin(opening, state)
        self.ends.append(perf_counter())

    def step(self, batch: Tensor, lr: float, state: State, inputs: Tensor | None = None) -> None:
        began = perf_counter()
        self.inner.step(batch, lr, state, inputs)
        self.ends.append(perf_counter())
        self.own.append(self.ends[-1] - began)

    def end(self) -> None:
        self.inner.end()

    @property
    def share(self) -> float:
        """What the writer takes, over what the rest of a step does: both medians, which key frames do not move."""
        own = torch.tensor(self.own, dtype=torch.float64)
        return float(own.median() / (torch.tensor(self.ends, dtype=torch.float64).diff() - own).median())

    @property
    def mean(self) -> float:
        """The same of means, which key frames are part of."""
        return sum(self.own) / (self.ends[-1] - self.ends[0] - sum(self.own))


def test_writing(benchmark: Any, mnist: Data, build: Any, report: Any, tmp_path: Path) -> None:
    """At most 35% of a step with plain SGD; with moments it is printed, and the size on the disk."""
    records, names, rows = mnist.train, count(), {}
    shares: dict[str, list[float]] = {name: [] for name in RECIPES}
    means: dict[str, list[float]] = {name: [] for name in RECIPES}
    sizes: dict[str, int] = {}
    one = Task(records, build, RECIPES["plain SGD"])
    subject = writer(one, drawn(one, 0), tmp_path, NOBODY).subject  # the data set is hashed once, beforehand

    def run(name: str, proves: bool) -> Callable[[], int]:
        recipe = RECIPES[name]

        def go() -> int:
            task = Task(records, build, recipe)
            plan = Plan(recipe, len(records), most=STEPS)
            learner = Stepwise(drawn(task, 0), recipe, records.x, 0)
            folder = tmp_path / str(next(names))
            timed = Timed(ProofWriter(folder, subject)) if proves else None
            opening = Opening(training=recipe, steps=plan.steps, seed=0)
            follow(learner, records, plan, plan.batches(torch.arange(len(records)), 0), opening, timed)
            if timed is not None:
                shares[name].append(timed.share)
                means[name].append(timed.mean)
                sizes[name] = sum(each.stat().st_size for each in folder.iterdir())
            return plan.steps

        return go

    words = {False: "", True: " with a proof"}
    runs = in_turn({f"{name}{words[proves]}": run(name, proves) for name in RECIPES for proves in words})
    for number in range(next(names)):
        shutil.rmtree(tmp_path / str(number), ignore_errors=True)
    found = {name: median(shares[name][1:]) for name in RECIPES}
    for name in RECIPES:
        rows |= {
            f"{name}, microseconds for a step": f"{1e6 * runs.median(name):.0f}",
            f"{name}, with a proof": f"{1e6 * runs.median(f'{name} with a proof'):.0f}",
            f"{name}, writing and hashing": f"{100 * found[name]:.0f}%",
            f"{name}, key frames included": f"{100 * median(means[name][1:]):.0f}%",
            f"{name}, ratio of whole runs": f"{runs.ratio(f'{name} with a proof', name):.2f} x",
            f"{name}, on the disk for a step": f"{sizes[name] / STEPS / 1000:.1f} kB",
        }
    report("Writing proofs, a checkpoint after every step", rows | {"a large matrix product": gigaflops()})
    benchmark.extra_info.update(found)
    benchmark.pedantic(run("plain SGD", True), rounds=1)
    assert found["plain SGD"] <= WRITING


def test_replay_with_two_workers(benchmark: Any, mnist: Data, build: Any, report: Any, tmp_path: Path) -> None:
    """At least 1.7 x as fast as one."""
    records = mnist.train
    of = logged(Task(records, build, Training(momentum=0.9, **PLAIN | {"epochs": 4})), tmp_path)

    def run(workers: int, wanted: list[int] | None = None) -> Callable[[], int]:
        def go() -> int:
            found = replay(of.log, records, of.victim, wanted, workers)
            assert found.damaged is None
            assert set(found.weights) == {0.0}
            return 1

        return go

    runs = in_turn({"one worker": run(1), "two workers": run(2), "start-up": run(2, [1, 51])})
    pairs = zip(runs.seconds["two workers"], runs.seconds["start-up"], strict=True)
    ratio = Paired({**runs.seconds, "without": [whole - start for whole, start in pairs]}).ratio(
        "one worker", "without"
    )
    report(
        f"Replaying a proof of {of.log.steps} steps, milliseconds",
        {name: f"{1e3 * runs.median(name):.0f}" for name in runs.seconds}
        | {
            "one / two workers": f"{runs.ratio('one worker', 'two workers'):.2f} x",
            "one / two workers, without start-up": f"{ratio:.2f} x",
            "a large matrix product": gigaflops(),
        },
    )
    benchmark.extra_info["one / two workers"] = ratio
    benchmark.pedantic(run(2), rounds=1)
    shutil.rmtree(tmp_path)
    assert ratio >= TWO_WORKERS


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
