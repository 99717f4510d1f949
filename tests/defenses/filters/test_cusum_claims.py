"""What sums over batches see of requests that are split, and single batches do not, on the Gaussian testbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from attacks.crafting.functionals import LogitGap
from attacks.requester.one_shot_influence import OneShotInfluence
from attacks.requester.sequential import Sequential
from data.randomness import generator
from defenses.defense import Context
from defenses.filters.cusum import Cusum, standardised_in_turn
from metrics.clustered import clustered_auroc
from metrics.cusum import cusum
from metrics.detection import calibrated_threshold
from metrics.intervals import rate_interval
from models.solver import Solver
from tests.attacks.checks import bed, crafted, opened
from tests.defenses.filters.test_set_level import effects, seen
from tests.testbed import TRAINING
from unlearning.turns import carried_on

SEEDS, TARGETS, ALONE, DRAWN = range(3), 20, 60, 2000


@dataclass(frozen=True)
class Case:
    """How a request comes: `parts` batches of `size` records, by a list of one-shot influence or in stages.

    With `covered` False a batch has the attacker's records alone: the traffic of one account.
    """

    parts: int
    size: int
    staged: bool = False
    covered: bool = True
    budget: int = 15


@cache
def requests(seed: int, staged: bool, parts: int, budget: int) -> list[list[Tensor]]:
    """Of every target the records by batch."""
    of = bed(seed)
    goals = of.goals(of.targets(TARGETS), 1)
    if not staged:
        found = crafted(OneShotInfluence(budget=budget, functional=LogitGap()), of, goals)
        whole = [torch.tensor(each.request.indices) for each in found]
        return [[each[j::parts] for j in range(parts)] for each in whole]
    attack = Sequential(budget=budget, stages=parts, benign=0, judged="stages", access="white_box")
    return [list(torch.tensor(e.request.indices).split(list(e.stages))) for e in crafted(attack, of, goals)]


def attacked(seed: int, case: Case) -> list[list[Tensor]]:
    """The sequences of all targets, with benign records that are in one batch only."""
    rng, found = generator(seed, "cover", str(case)), []
    for own in requests(seed, case.staged, case.parts, case.budget):
        others = torch.randperm(TRAINING, generator=rng)
        others, sequence = others[~torch.isin(others, torch.cat(own))], []
        for part in own:
            count = case.size - len(part) if case.covered else 0
            sequence.append(torch.cat([part, others[:count]]))
            others = others[count:]
        found.append(sequence)
    return found


def benign(seed: int, case: Case, count: int) -> list[list[Tensor]]:
    rng = generator(seed, "benign sequences", str(case))
    drawn = [torch.randperm(TRAINING, generator=rng)[: case.parts * case.size] for _ in range(count)]
    return [list(each.split(case.size)) for each in drawn]


def live(seed: int, sequences: Sequence[Sequence[Tensor]]) -> Tensor:
    """z (count, parts, t) of every batch, at what became of the batches before it."""
    of, test = bed(seed), Cusum(solver=Solver(method="auto", tolerance=1e-10))
    root = opened(of)
    labels, providers = of.victim.logits(of.trusted.x).argmax(-1), [root] * len(sequences)
    found = []
    for batches in zip(*sequences, strict=True):
        rows = []
        for provider, batch in zip(providers, batches, strict=True):
            victim = provider.victims[0]
            context = Context(provider.task, victim, victim, of.trusted)
            rows.append(test.standardised(context, of.task.records[batch], labels))
        found.append(torch.stack(rows))
        providers = carried_on(root, providers, batches)
    return torch.stack(found, dim=1)


@dataclass(frozen=True)
class Told:
    """How a statistic of sequences told the attack's from benign ones: AUROC, and shares above the threshold.

    The threshold is that of simulated sequences, at 5%; what benign sequences really were above it is `false`.
    """

    auroc: tuple[float, float, float]
    caught: tuple[float, float, float]
    false: tuple[float, float, float]


@cache
def told(case: Case, drift: float = 0.5) -> dict[str, Told]:
    """By statistic: the largest of single batches, and of the sums."""
    scores: dict[str, list[Tensor]] = {"alone": [], "summed": []}
    above: dict[str, list[Tensor]] = {"alone": [], "summed": []}
    for seed in SEEDS:
        rng = generator(seed, "simulated", str(case))
        drawn = torch.stack([torch.randperm(TRAINING, generator=rng)[: case.parts * case.size] for _ in range(DRAWN)])
        drawn = drawn.reshape(DRAWN, case.parts, case.size)
        some = [standardised_in_turn(effects(seed).T, each) for each in drawn.split(100)]
        null = torch.cat(some, dim=1)  # (parts, 2000, t)
        z = live(seed, [*attacked(seed, case), *benign(seed, case, ALONE)]).transpose(0, 1)
        for name, of in (("alone", lambda x: x.abs()), ("summed", lambda x: cusum(x, drift))):
            value = of(z).amax((0, 2))
            scores[name].append(value)
            above[name].append(value > calibrated_threshold(of(null).amax((0, 2)), 0.05))
    truth = torch.cat([torch.arange(TARGETS + ALONE) < TARGETS] * len(SEEDS))
    found = {}
    for name in scores:
        flagged = torch.cat(above[name])
        a = clustered_auroc(torch.cat(scores[name]), truth, torch.arange(len(truth)))
        rates = [rate_interval(int(flagged[mine].sum()), int(mine.sum())) for mine in (truth, ~truth)]
        three = [(each.mean, each.low, each.high) for each in rates]
        found[name] = Told((a.value, float(a.settings["low"]), float(a.settings["high"])), *three)
    return found
