"""Sets that are measured before the targets are known, on the Gaussian testbed: how far they reach, what they cost."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pydantic import ValidationError
from scipy.optimize import nnls

from attacks.crafting.attack import AttackResult
from attacks.requester import flexible
from attacks.requester.flexible import Displacements, Flexible, margin_slopes, spread
from attacks.requester.misclassification import Misclassification
from attacks.requester.random import Random
from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.last_layer import only_last_layer
from models.mlp import MLP
from models.training import Training
from tests.attacks.checks import bed, crafted, labels, on_goals, opened, unlearned
from unlearning.first_order import FirstOrder
from unlearning.learning import plain_learning
from unlearning.procedure import Procedure, Task
from unlearning.second_order import SecondOrder
from unlearning.service import OpenService

PROCEDURES = (FirstOrder(), SecondOrder())
COUNT, SEEDS = 20, range(3)


def success(of, goals, requests: list[AttackResult], procedure: Procedure) -> float:
    return float((on_goals(unlearned(of, requests, procedure), goals).argmax(1) != labels(goals)).double().mean())


@pytest.mark.parametrize("budget", [6, 15, 30])
@pytest.mark.parametrize("procedure", PROCEDURES, ids=lambda each: type(each).__name__)
def test_it_reaches_what_the_search_reaches_without_running_the_procedure_again(procedure, budget: int) -> None:
    """ASR within 10 points of the white-box search; 20 targets chosen later cost no run of the procedure at all."""
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        of = bed(seed)
        goals, attacker = of.goals(of.targets(COUNT)), of.attacker()
        service, searched = opened(of, procedure), opened(of, procedure)
        attack = Flexible(budget=budget)
        prepared = attack.prepare(service, attacker, generator(seed, "attack"))
        before = service.meter.operator_calls
        assert before == attack.sets
        results = [attack.answer(prepared, goal) for goal in goals]
        assert service.meter.operator_calls == before
        search = Misclassification(budget=budget).craft([searched], goals, attacker, generator(seed, "attack"))
        assert searched.meter.operator_calls >= 10 * (service.meter.operator_calls - before + 1)
        found.setdefault("calls of the search", []).append(searched.meter.operator_calls)
        for name, requests in {
            "flexible": results, "search": search, "random": crafted(Random(budget=budget), of, goals),
        }.items():  # fmt: skip
            found.setdefault(name, []).append(success(of, goals, requests, procedure))
    mean = {name: sum(values) / len(values) for name, values in found.items()}
    print(type(procedure).__name__, budget, mean)
    assert mean["flexible"] >= mean["search"] - 0.1
    assert mean["flexible"] >= mean["random"] + 0.3


def test_first_order_displacements_add_up() -> None:
    """Deleting with weights sum_j a_j 1[i in S_j] is sum_j a_j d_j, up to rounding of float64."""
    of, procedure = bed(0), FirstOrder()
    prepared = Flexible(budget=15).prepare(opened(of, procedure), of.attacker(), generator(0, "attack"))
    slope = margin_slopes(of.victim, Examples(of.goals(of.targets(1))[0].x, of.goals(of.targets(1))[0].labels))[0][0]
    weights = prepared.realised(-slope)
    together = procedure.forget(of.task, of.victim, (weights @ prepared.members)[None], 0).flat() - of.victim.flat()
    error = (together[0] - weights @ prepared.moved).norm() / together.norm()
    print("linearity error", float(error), "sets used", int((weights > 0).sum()))
    assert float(error) < 1e-13


def test_second_order_displacements_do_not_quite() -> None:
    """The curvature is that of what is retained: the forecast is one, and the error says by how much."""
    of, procedure = bed(0), SecondOrder()
    prepared = Flexible(budget=15).prepare(opened(of, procedure), of.attacker(), generator(0, "attack"))
    weights = torch.zeros(len(prepared.moved), dtype=torch.float64)
    weights[:2] = 1 / 2
    together = procedure.forget(of.task, of.victim, (weights @ prepared.members)[None], 0).flat() - of.victim.flat()
    error = float((together[0] - weights @ prepared.moved).norm() / together.norm())
    print("linearity error", error)
    assert 1e-6 < error < 0.2


def test_displacements_are_spread() -> None:
    """Their smallest pairwise angle is larger than that of as many candidates at random, with either procedure."""
    for procedure in PROCEDURES:
        of = bed(0)
        chosen = Flexible(budget=15, sets=16).prepare(opened(of, procedure), of.attacker(), generator(0, "attack"))
        every = Flexible(budget=15, sets=100).prepare(opened(of, procedure), of.attacker(), generator(0, "attack"))
        rng = generator(0, "random")
        drawn = [angle(every.moved[torch.randperm(100, generator=rng)[:16]]) for _ in range(20)]
        print(type(procedure).__name__, "degrees", angle(chosen.moved), "at random", max(drawn))
        assert angle(chosen.moved) > max(drawn)


def angle(vectors: torch.Tensor) -> float:
    """The smallest angle between two rows, in degrees."""
    units = vectors / vectors.norm(dim=1, keepdim=True)
    cosine = (units @ units.T).fill_diagonal_(-1).amax()
    return float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))


def test_farthest_points_are_within_a_factor_of_two_of_the_best() -> None:
    """On the circle the best is known: `count` evenly spaced directions."""
    turn = torch.linspace(0, 2 * torch.pi, 361, dtype=torch.float64)[:-1]
    circle = torch.stack([turn.cos(), turn.sin()], dim=1)
    for count in (3, 5, 8):
        rows = spread(circle, count)
        assert len(set(rows.tolist())) == count
        assert angle(circle[rows]) >= 360 / count / 2 - 1e-6


def test_least_squares_are_those_of_the_whole_system() -> None:
    """What is solved is reduced to as many equations as there are sets; and never a coefficient below 0."""
    rng = generator(0, "system")
    moved, wanted = torch.randn(6, 40, generator=rng).double(), torch.randn(40, generator=rng).double()
    prepared = Displacements(bed(0).victim, torch.zeros(6, 4, dtype=torch.float64), moved)
    expected, _ = nnls(moved.T.numpy(), wanted.numpy())
    torch.testing.assert_close(prepared.realised(wanted), torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
    inside = torch.tensor([0.5, 0, 2, 0, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(prepared.realised(inside @ moved), inside, rtol=1e-9, atol=1e-9)


def test_single_records_are_told_from_sets_that_hold_them() -> None:
    """With as many independent sets as records, and hardly a ridge, their own displacements come back."""
    rng = generator(0, "records")
    members = torch.eye(8, dtype=torch.float64) + torch.diag(torch.ones(7, dtype=torch.float64), 1)
    own, slope = torch.randn(8, 5, generator=rng).double(), torch.randn(5, generator=rng).double()
    prepared = Displacements(bed(0).victim, members, members @ own)
    torch.testing.assert_close(prepared.of_records(slope, 1e-12), own @ slope, rtol=1e-6, atol=1e-6)


def test_slopes_of_margins_are_right() -> None:
    """Against central differences, and those of the last layer are a part of them."""
    of = bed(0)
    examples = of.test[:5]
    slopes, margins = margin_slopes(of.victim, examples)
    direction = torch.randn(slopes.shape[1], generator=generator(0, "d"), dtype=torch.float64)
    for sign in (1, -1):
        moved = of.victim.moved(sign * 1e-6 * direction[None])[0]
        change = margin_slopes(moved, examples)[1] - margins
        torch.testing.assert_close(change, sign * 1e-6 * slopes @ direction, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(margin_slopes(only_last_layer(of.victim), examples)[0], slopes)


def test_requests_are_within_the_budget_and_the_pool() -> None:
    of = bed(0)
    pool = torch.arange(0, 300, 3)
    attack = Flexible(budget=10, sets=20, candidates=30)
    results = attack.craft([opened(of, FirstOrder())], of.goals(of.targets(4)), of.attacker(pool), generator(0, "a"))
    for each in results:
        assert 0 < len(each.request) <= 10
        assert set(each.request.indices) <= set(pool.tolist())


def test_more_sets_than_candidates_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"raise the latter"):
        Flexible(sets=20, candidates=10)


def test_a_model_that_is_too_large_is_seen_by_its_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or refused, where that is too large too."""
    of, training = bed(0), Training(epochs=5, batch_size=32)
    task = Task(of.task.records, partial(MLP, shape=(10,), classes=3, widths=[16]), training)
    victim = plain_learning(task, 0)
    service = OpenService(task, FirstOrder(), (victim,), (0,))
    attack, goals = Flexible(budget=15, sets=20), of.goals(of.targets(3))
    whole = attack.prepare(service, of.attacker(), generator(0, "attack"))
    assert whole.moved.shape == (20, 10 * 16 + 16 + 16 * 3 + 3)
    monkeypatch.setattr(flexible, "LARGEST", 60)
    last = attack.prepare(service, of.attacker(), generator(0, "attack"))
    moved = FirstOrder().forget(task, victim, last.members, 0).flat() - victim.flat()
    torch.testing.assert_close(last.moved, moved[:, -(16 * 3 + 3) :])
    assert all(len(attack.answer(last, goal).request) > 0 for goal in goals)
    monkeypatch.setattr(flexible, "LARGEST", 50)
    with pytest.raises(UserError, match="at most 50 parameters, and this model has 51 in its last layer and 227 in"):
        attack.prepare(service, of.attacker(), generator(0, "attack"))
