"""Search on the answers of a service: exact query counts, determinism, and a decent share of white-box access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import pytest
import torch
from pydantic import ValidationError

from attacks.crafting.attack import AttackGoal, AttackResult
from attacks.crafting.black_box import BlackBoxObjective, ScoreSearch, search_scores
from attacks.crafting.functionals import Confidence
from attacks.crafting.objective import MisclassificationObjective, UncertaintyObjective
from attacks.crafting.zeroth_order import Estimator
from attacks.requester.misclassification import Misclassification
from attacks.requester.sequential import Sequential
from attacks.requester.uncertainty import Uncertainty
from data.errors import UserError
from data.randomness import generator
from models.solver import Solver
from tests.attacks.checks import bed, closed, labels, opened, unlearned
from unlearning.first_order import FirstOrder
from unlearning.procedure import Request
from unlearning.second_order import SecondOrder
from unlearning.service import Meter, Service

NEWTON = SecondOrder(solver=Solver(method="dense", tolerance=1e-3))
QUERIES, BUDGET = 300, 6
DEFAULT = Estimator(smoothing=0.3, ranked=True)
ZEROS = partial(ScoreSearch, method="zeroth_order", start="zeros")


def the_goal() -> AttackGoal:
    of = bed(0)
    goals = of.goals(of.in_band(0.45, 0.65, 6), -1)
    return AttackGoal(torch.cat([goal.x for goal in goals]), labels(goals), -1)


def pool() -> torch.Tensor:
    return torch.randperm(300, generator=generator(0, "pool"))[:60].sort().values


def change(found: AttackResult) -> float:
    """Mean change of the confidence of the six targets."""
    of, goal = bed(0), the_goal()
    after = unlearned(of, [found], NEWTON)[0].probabilities(goal.x) - of.victim.probabilities(goal.x)
    return float(after.gather(1, goal.labels[:, None]).mean())


def play(search: ScoreSearch, queries: int = QUERIES, seed: int = 0) -> tuple[AttackResult, Meter]:
    service, meter = closed(bed(0), NEWTON, queries)
    attack = Uncertainty(budget=BUDGET, access="black_box", search=search, queries=queries)
    return attack.craft([service], [the_goal()], bed(0).attacker(pool()), generator(seed, "attack"))[0], meter


@cache
def white_box() -> float:
    attack = Uncertainty(budget=BUDGET)
    return change(attack.craft([opened(bed(0), NEWTON)], [the_goal()], bed(0).attacker(pool()), generator(0, "a"))[0])


@pytest.mark.parametrize(
    ("search", "used"),
    [
        (ScoreSearch(), QUERIES),
        (ScoreSearch(start="zeros"), QUERIES),
        (ScoreSearch(method="zeroth_order"), 7 * 41),
        (ZEROS(), 7 * 41),
        (ZEROS(update="sign"), 7 * 41),
        (ZEROS(update="sgd", lr=0.3), 7 * 41),
        (ZEROS(estimator=Estimator(kind="orthonormal", smoothing=1.0, ranked=True)), 7 * 41),
        (ZEROS(estimator=Estimator(kind="sphere", smoothing=2.5, ranked=True)), 7 * 41),
        (ScoreSearch(method="evolution"), QUERIES),
        (ScoreSearch(method="evolution", start="zeros"), QUERIES),
        (ScoreSearch(method="evolution", shortlist=20), QUERIES),
    ],
    ids=[
        "swaps", "swaps-zeros", "adamm", "adamm-zeros", "sign", "sgd", "orthonormal", "sphere", "evolution",
        "evolution-zeros", "evolution-shortlist",
    ],
)  # fmt: skip
def test_reaches_a_good_share_of_white_box_access(search: ScoreSearch, used: int) -> None:
    found, meter = play(search)
    share = change(found) / white_box()
    print(f"share of the white-box change {share:.2f} ({white_box():.3f})")
    assert share >= 0.5
    assert meter.queries == meter.operator_calls == used
    assert len(found.curve) == used + 1
    assert all(b <= a for a, b in zip(found.curve, found.curve[1:], strict=False))
    assert found.curve[-1] == found.objective
    assert len(found.request) == BUDGET
    assert set(found.request.indices) <= set(pool().tolist())


@pytest.mark.parametrize("method", ["swaps", "zeroth_order", "evolution"])
def test_determined_by_its_generator(method: str) -> None:
    search = ScoreSearch(method=method, workers=10, start="zeros")  # type: ignore[arg-type]
    first, again, other = (play(search, 60, seed)[0] for seed in (1, 1, 2))
    assert first.request == again.request
    assert first.curve == again.curve
    assert first.curve != other.curve


def test_too_small_a_budget_for_one_estimate_is_refused() -> None:
    with pytest.raises(UserError, match="takes 40 queries"):
        play(ScoreSearch(method="zeroth_order"), 39)


def test_the_default_search() -> None:
    """Swaps from a forecast. Steps far below a score's range would not change the decoded set, and estimate nothing."""
    assert (ScoreSearch().method, ScoreSearch().start, ScoreSearch().estimator) == ("swaps", "responses", DEFAULT)


def test_the_first_request_is_most_of_the_way() -> None:
    """The forecast knows neither the model nor its gradient, and one query is made."""
    first, meter = play(ScoreSearch(), 1)
    blind = [change(play(ScoreSearch(start="zeros"), 1, seed)[0]) for seed in range(10)]
    print(f"first request {change(first):.3f}, white-box {white_box():.3f}, random {sum(blind) / 10:.3f}")
    assert change(first) >= 0.6 * white_box()
    assert change(first) >= 5 * abs(sum(blind) / 10)
    assert (meter.queries, len(first.curve)) == (1, 2)


@pytest.mark.parametrize("method", ["swaps", "zeroth_order", "evolution"])
def test_a_shortlist_holds_the_candidates_that_the_start_puts_first(method: str) -> None:
    service, meter = closed(bed(0), NEWTON, 82)
    black_box = BlackBoxObjective(
        service, the_goal(), bed(0).attacker(pool()), UncertaintyObjective(Confidence(), 5, 1, 0.05)
    )
    best = pool()[black_box.forecast().argsort(descending=True)[:8]].tolist()
    asked = Asked(service, seen := [])
    black_box.service = asked  # type: ignore[assignment]
    search_scores(black_box, ScoreSearch(method=method, shortlist=8), BUDGET, generator(0, "search"))  # type: ignore[arg-type]
    assert meter.queries == len(seen) == 82
    assert {index for request in seen for index in request.indices} == set(best)


class Asked(Service):
    """The same service, noting every request."""

    def __init__(self, service: Service, seen: list[Request]) -> None:
        self.service, self.seen = service, seen

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self.service.predict(x)

    def queries_left(self) -> int:
        return self.service.queries_left()

    def answers(self, requests: Sequence[Request], x: torch.Tensor) -> torch.Tensor:
        self.seen += requests
        return self.service.answers(requests, x)


@pytest.mark.parametrize(
    "attack", [Uncertainty, Misclassification, partial(Sequential, stages=2)], ids=["one", "other", "stages"]
)
def test_a_shortlist_below_the_budget_is_refused_at_once(attack: Callable[..., object]) -> None:
    with pytest.raises(ValidationError, match="shortlist=5 leaves fewer candidates"):
        attack(budget=12, access="black_box", search=ScoreSearch(shortlist=5))


def test_misclassification_by_queries() -> None:
    service, meter = closed(bed(0), NEWTON, 82)
    attack = Misclassification(budget=BUDGET, access="black_box", queries=82)
    found = attack.craft([service], [the_goal()], bed(0).attacker(pool()), generator(0, "attack"))[0]
    assert meter.queries == 82
    assert found.objective < found.curve[0]


def test_what_a_black_box_attacker_computes_is_the_true_objective() -> None:
    """From probabilities alone, equal to the white-box value for the same request; an infeasible best is not kept."""
    of, goal = bed(0), the_goal()
    objective = UncertaintyObjective(Confidence(), 5.0, 1.0, 0.05)
    service, _ = closed(of, NEWTON, 5)
    black_box = BlackBoxObjective(service, goal, of.attacker(pool()), objective)
    mask = torch.zeros(1, 60, dtype=torch.bool)
    mask[0, :BUDGET] = True
    loss = black_box.losses(mask)
    model = unlearned(of, [AttackResult(Request(tuple(pool()[:BUDGET].tolist())), 0.0)], NEWTON)[0]
    p = model.probabilities(goal.x).gather(1, goal.labels[:, None])
    effect = float((1 - p).sum())
    assert float(loss[0]) >= effect - 1e-9
    assert (black_box.reference_labels == of.victim.logits(of.attacker().reference.x).argmax(1)).all()
    assert black_box.curve[-1] == pytest.approx(min(black_box.curve[0], effect), abs=1e-9)


def test_a_search_may_leave_queries_for_later() -> None:
    """It stops at its own number of queries, by every method."""
    for method in ("swaps", "zeroth_order", "evolution"):
        service, meter = closed(bed(0), FirstOrder(rate=5.0), 200)
        objective = MisclassificationObjective(stealth=0.0, kappa=5.0, tolerance=0.0)
        black_box = BlackBoxObjective(service, the_goal(), bed(0).attacker(pool()), objective)
        search_scores(black_box, ScoreSearch(method=method), BUDGET, generator(0, "search"), queries=82)
        assert 81 <= meter.queries <= 82
        assert service.queries_left() == 200 - meter.queries
