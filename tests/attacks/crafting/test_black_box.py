"""Search on the answers of a service: exact query counts, determinism, and a decent share of white-box access."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from attacks.crafting.attack import AttackGoal, AttackResult
from attacks.crafting.black_box import BlackBoxObjective, ScoreSearch, search_scores
from attacks.crafting.functionals import Confidence
from attacks.crafting.objective import MisclassificationObjective, UncertaintyObjective
from attacks.crafting.zeroth_order import Estimator
from attacks.requester.misclassification import Misclassification
from attacks.requester.uncertainty import Uncertainty
from data.errors import UserError
from data.randomness import generator
from models.solver import Solver
from tests.attacks.checks import bed, closed, labels, opened, unlearned
from unlearning.first_order import FirstOrder
from unlearning.procedure import Request
from unlearning.second_order import SecondOrder
from unlearning.service import Meter

NEWTON = SecondOrder(solver=Solver(method="dense", tolerance=1e-3))
QUERIES, BUDGET = 300, 6
DEFAULT = Estimator(smoothing=1.0, ranked=True)


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
        (ScoreSearch(), 7 * 41),
        (ScoreSearch(update="sign"), 7 * 41),
        (ScoreSearch(update="sgd", lr=3.0), 7 * 41),
        (ScoreSearch(estimator=Estimator(kind="orthonormal", smoothing=3.0, ranked=True)), 7 * 41),
        (ScoreSearch(estimator=Estimator(kind="sphere", smoothing=8.0, ranked=True)), 7 * 41),
        (ScoreSearch(method="evolution"), QUERIES),
    ],
    ids=["adamm", "sign", "sgd", "orthonormal", "sphere", "evolution"],
)
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


@pytest.mark.parametrize("method", ["zeroth_order", "evolution"])
def test_determined_by_its_generator(method: str) -> None:
    search = ScoreSearch(method=method, workers=10)  # type: ignore[arg-type]
    first, again, other = (play(search, 60, seed)[0] for seed in (1, 1, 2))
    assert first.request == again.request
    assert first.curve == again.curve
    assert first.curve != other.curve


def test_too_small_a_budget_for_one_estimate_is_refused() -> None:
    with pytest.raises(UserError, match="takes 40 queries"):
        play(ScoreSearch(), 39)


def test_the_default_search_is_that_of_the_configuration() -> None:
    """Steps far below a score's range would not change the decoded set, and the estimate would be zero."""
    assert ScoreSearch().estimator == DEFAULT


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
    """It stops at its own number of queries, by either method."""
    for method in ("zeroth_order", "evolution"):
        service, meter = closed(bed(0), FirstOrder(rate=5.0), 200)
        objective = MisclassificationObjective(stealth=0.0, kappa=5.0, tolerance=0.0)
        black_box = BlackBoxObjective(service, the_goal(), bed(0).attacker(pool()), objective)
        search_scores(black_box, ScoreSearch(method=method), BUDGET, generator(0, "search"), queries=82)
        assert 81 <= meter.queries <= 82
        assert service.queries_left() == 200 - meter.queries
