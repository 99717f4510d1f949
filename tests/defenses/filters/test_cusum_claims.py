"""What sums over batches see of requests that are split, and single batches do not, on the Gaussian testbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from tests.attacks.checks import bed, crafted, opened
from tests.defenses.filters.test_set_level import effects
from tests.testbed import TRAINING
from unlearning.turns import carried_on

SEEDS, TARGETS, ALONE, DRAWN, POINTS = range(3), 12, 30, 2000, 200


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
    of, test = bed(seed), Cusum(points=POINTS)
    root = opened(of)
    labels, providers = of.victim.logits(of.trusted.x[:POINTS]).argmax(-1), [root] * len(sequences)
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
        some = [standardised_in_turn(effects(seed)[:, :POINTS].T, each) for each in drawn.split(100)]
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


def said(case: Case) -> dict[str, Told]:
    found = told(case)
    print(case, found)
    return found


@pytest.mark.claims
def test_sums_find_what_is_split_over_many_batches_and_single_batches_do_not() -> None:
    """15 records over ten batches of 15: sums catch half of the sequences, of 36, where single batches catch none."""
    found = said(Case(10, 15))
    assert found["alone"].caught[0] <= 0.1
    assert found["summed"].caught[0] >= 0.35
    assert found["summed"].auroc[0] > found["alone"].auroc[0] + 0.1


@pytest.mark.claims
def test_sums_see_more_of_stages() -> None:
    """Five stages of 3 records among 27 others, each chosen at the model of its time."""
    found = said(Case(5, 30, staged=True))
    assert found["summed"].caught[0] > found["alone"].caught[0] + 0.1


@pytest.mark.claims
def test_three_large_batches_hide_a_request_from_both() -> None:
    """5 of 60 records in each of three: three steps are too few to add up, and the request is as good as unseen."""
    found = said(Case(3, 60))
    assert max(each.caught[0] for each in found.values()) <= 0.3


@pytest.mark.claims
def test_the_traffic_of_one_account_gives_it_away() -> None:
    """Five stages of 3 records without others in between: nothing dilutes them, and single batches show them too."""
    found = said(Case(5, 3, staged=True, covered=False))
    assert min(each.caught[0] for each in found.values()) >= 0.8


@pytest.mark.claims
def test_benign_sequences_are_flagged_somewhat_more_often_than_promised() -> None:
    """The threshold is simulated with effects at the first victim, and later models have others: not more than 15%."""
    cases = (Case(3, 60), Case(5, 30, staged=True), Case(5, 3, staged=True, covered=False), Case(10, 15))
    rates = {str(case): told(case)["summed"].false for case in cases}
    print(rates)
    assert all(low <= 0.05 for _, low, _ in rates.values())
    assert max(rate for rate, _, _ in rates.values()) <= 0.15
