"""The closed loop with sequential feedback: real deletions, no rollback, no gradients."""

from __future__ import annotations

import pytest
import torch

from attacks.requester.random import Random
from attacks.requester.uncertainty import Uncertainty
from data.errors import UserError
from data.randomness import generator
from models.solver import Solver
from tests.attacks.checks import OVER, UNDER, bed, closed, confidence_change, crafted, unlearned
from unlearning.procedure import Request
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.service import Service

NEWTON = SecondOrder(
    solver=Solver(method="dense", tolerance=1e-3)
)  # a single step, cheaper than retraining for one request at a time
LOOP = Uncertainty(budget=10, access="black_box", feedback="sequential")

STRONG = Uncertainty(budget=10)


class Watched(Service):
    """The same service, noting every request; each service it hands out is watched too."""

    def __init__(self, service: Service, log: list[tuple[int, ...]]) -> None:
        self.service, self.log = service, log

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self.service.predict(x)

    def queries_left(self) -> int:
        return self.service.queries_left()

    def forget(self, request: Request) -> Service:
        self.log.append(request.indices)
        return Watched(self.service.forget(request), self.log)


@pytest.mark.parametrize(("direction", "low", "high"), [OVER, UNDER])
def test_beats_random_deletions_and_keeps_labels(direction: int, low: float, high: float) -> None:
    """On two draws with 100 owned records, judged by exact retraining: most of what white-box search reaches."""
    moved, white, random, kept = [], [], [], []
    for seed in range(2):
        of, pool = bed(seed), torch.randperm(300, generator=generator(seed, "pool"))[:100]
        goals = of.goals(of.in_band(low, high, 3), direction)
        services = [closed(of, NEWTON, 10, "sequential")[0] for _ in goals]
        found = LOOP.craft(services, goals, of.attacker(pool), generator(seed, "attack"))
        change, same = confidence_change(of, goals, unlearned(of, found))
        moved.append(-direction * change)
        kept.append(same)
        white.append(-direction * confidence_change(of, goals, unlearned(of, crafted(STRONG, of, goals, pool)))[0])
        many = goals * 6  # one random request alone moves a target by a few hundredths either way
        drawn = crafted(Random(budget=10), of, many, pool)
        random.append(-direction * confidence_change(of, many, unlearned(of, drawn))[0])
    changes = {"closed loop": moved, "white-box": white, "random": random}
    mean = {name: float(torch.cat(each).mean()) for name, each in changes.items()}
    print("change of confidence in the wanted direction", mean)
    assert mean["closed loop"] >= 0.7 * mean["white-box"]
    assert mean["closed loop"] >= 5 * abs(mean["random"])
    assert torch.cat(kept).all()


@pytest.mark.parametrize("per_query", [1, 3])
def test_every_query_deletes_for_good_within_both_budgets(per_query: int) -> None:
    of = bed(0)
    goals = of.goals(of.in_band(*OVER[1:], 1), -1)
    service, meter = closed(of, Retrain(), 3, "sequential")
    log: list[tuple[int, ...]] = []
    attack = Uncertainty(budget=7, access="black_box", feedback="sequential", per_query=per_query)
    found = attack.craft([Watched(service, log)], goals, of.attacker(), generator(0, "attack"))[0]
    assert found.request.indices == tuple(i for each in log for i in each)
    assert len(log) == meter.queries == meter.operator_calls == 3
    assert max(len(each) for each in log) <= per_query
    assert len(found.request) <= 7
    assert len(found.curve) == 1 + len(log)
    with pytest.raises(UserError, match="for good"):
        service.forget(Request((0,)))


def test_the_loop_stops_before_a_label_would_be_lost() -> None:
    """With as many deletions as it likes, under-confidence ends near the decision boundary and not beyond it."""
    of = bed(1)
    goals = of.goals(of.in_band(*UNDER[1:], 2), 1)
    attack = Uncertainty(budget=60, access="black_box", feedback="sequential", per_query=2)
    services = [closed(of, NEWTON, 60, "sequential")[0] for _ in goals]
    found = attack.craft(services, goals, of.attacker(), generator(1, "attack"))
    change, kept = confidence_change(of, goals, unlearned(of, found))
    assert kept.all()
    assert change.mean() < -0.2
    assert min(len(each.request) for each in found) < 60
