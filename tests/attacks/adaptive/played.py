"""An adaptive attacker against a filter on the Gaussian testbed, judged in streams that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from attacks.adaptive.strategy import Adaptive
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.criterion import LabelFlipped
from attacks.crafting.functionals import LogitGap
from attacks.requester.one_shot_influence import OneShotInfluence
from data.randomness import generator
from defenses.defense import Calibrated, Context, Filter, Verdict, reviewed
from games.request.evaluation import sent
from games.request.rehearsal import Rehearsal
from games.request.traffic import in_sequences
from games.request.turns import Turn, reviewed_in_turn
from metrics.detection import auroc
from tests.attacks.checks import bed, opened
from tests.defenses.filters.batches import Attacked, calibrated
from tests.testbed import TRAINING, Testbed
from unlearning.procedure import Request
from unlearning.service import OpenService

BUDGET, SIZE, BATCHES = 15, 60, 8


def knowing(
    of: Testbed, defense: Filter, goals: Sequence[AttackGoal], service: OpenService | None = None
) -> tuple[OpenService, Attacker]:
    """The opened provider, and an attacker with all records as its pool who knows the filter."""
    service, attacker = service or opened(of), of.attacker()
    knows = Rehearsal(defense, service, goals, attacker, LabelFlipped(), "uniform", SIZE, BATCHES, seed=7)
    return service, replace(attacker, knows=knows)


def crafted(of: Testbed, strategy: Adaptive, defense: Filter, goals: Sequence[AttackGoal]) -> list[AttackResult]:
    attack = OneShotInfluence(budget=BUDGET, functional=LogitGap(), adaptive=strategy)
    service, attacker = knowing(of, defense, goals)
    return attack.craft([service], goals, attacker, generator(of.seed, "attack"))


@dataclass(frozen=True)
class Outcome:
    """Over all targets: AUROC of the decision, share of labels lost alone, in the stream, and after the filter.

    `control` is that after the filter for random requests of the same size, in the same company.
    """

    auroc: float
    alone: float
    mixed: float
    filtered: float
    control: float
    rejected: float


def outcome(strategy: Adaptive, defense: Filter, seeds: int = 3, targets: int = 8) -> Outcome:
    """Means over the draws of the testbed."""
    runs = [_one(strategy, defense, seed, targets) for seed in range(seeds)]
    scores, truth = torch.cat([run["scores"] for run in runs]), torch.cat([run["truth"] for run in runs]).bool()
    means = {name: float(torch.cat([run[name] for run in runs]).double().mean()) for name in runs[0]}
    return Outcome(
        auroc(scores, truth).value,
        *(means[name] for name in ("alone", "mixed", "filtered", "control", "rejected")),
    )


@cache
def _one(strategy: Adaptive, defense: Filter, seed: int, targets: int) -> dict[str, Tensor]:
    of = bed(seed)
    goals = of.goals(of.targets(targets), 1)
    results = crafted(of, strategy, defense, goals)
    service, attacker = knowing(of, defense, goals)
    chosen = strategy.played(results)
    poison = chosen.poison(service, attacker)
    named = chosen.narrow(service, attacker, BUDGET, None).pool
    rng, mine, others = generator(seed, "provider"), [], []
    for each in results:
        request = torch.tensor(each.request.indices)
        control = named[torch.randperm(len(named), generator=rng)[: len(request)]]
        taken = torch.cat([request, control, poison])
        for j in range(chosen.parts):
            free = torch.randperm(TRAINING, generator=rng)
            part, other = request[j :: chosen.parts], control[j :: chosen.parts]
            cover = free[~torch.isin(free, taken)][: SIZE - len(part)]
            taken = torch.cat([taken, cover])
            mine.append((part, cover))
            others.append((other, cover))
    batches = [torch.randperm(TRAINING, generator=rng) for _ in range(BATCHES)]
    batches = [torch.cat([poison, each[~torch.isin(each, poison)][: SIZE - len(poison)]]) for each in batches]
    found = Attacked(of, goals, results, [], of.victim.copies(1), calibrated(of, batches), torch.empty(0))
    requests = [torch.tensor(each.request.indices) for each in results]
    brought = [each.request for each in results for _ in range(chosen.parts)]
    scores, accepted = _reviewed(found, defense, mine, brought, chosen.parts)
    _, accepted_control = _reviewed(found, defense, others, [None] * len(others), chosen.parts)
    truth = torch.cat([torch.arange(SIZE) < len(part) for part, _ in mine])
    passed = torch.cat(accepted[1])
    return {
        "scores": scores,
        "truth": truth,
        "alone": found.flipped(requests),
        "mixed": found.flipped(_together([torch.cat(each) for each in mine], chosen.parts)),
        "filtered": found.flipped(_together(accepted[0], chosen.parts)),
        "control": found.flipped(_together(accepted_control[0], chosen.parts)),
        "rejected": ~passed[~truth],
    }


def _reviewed(
    found: Attacked, defense: Filter, streams: Sequence[tuple[Tensor, Tensor]], brought: Sequence[Request | None],
    parts: int,
) -> tuple[Tensor, tuple[list[Tensor], list[Tensor]]]:  # fmt: skip
    """Scores of all records, and of every stream what was accepted, and whether each record was.

    The streams of one request come one after the other, each at what became of those before.
    """
    of, batches = found.of, [torch.cat(each) for each in streams]
    records, first = of.task.records, Context(of.task, of.victim, of.victim, of.trusted, found.calibration)
    threshold = defense.threshold(first) if isinstance(defense, Calibrated) else None

    def review(i: int, turn: Turn) -> Verdict:
        copies = brought[parts * i + turn.place]
        as_sent = None if copies is None or copies.examples is None else sent(copies, turn.batch, records)
        return reviewed(defense, turn.seen(replace(first, threshold=threshold, submitted=as_sent)), turn.batch)

    verdicts = [each for own, _ in reviewed_in_turn(opened(of), in_sequences(batches, parts), review) for each in own]
    left = [batch[verdict.accepted] for batch, verdict in zip(batches, verdicts, strict=True)]
    return torch.cat([verdict.scores for verdict in verdicts]), (left, [verdict.accepted for verdict in verdicts])


def _together(batches: Sequence[Tensor], parts: int) -> list[Tensor]:
    return [torch.cat(list(batches[i : i + parts])).unique() for i in range(0, len(batches), parts)]
