"""The gradient of a horizon, its bounds, and what is made of both."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from attacks.crafting.adjoint import (
    Horizon,
    cost,
    cost_and_slopes,
    deletions,
    planned,
    project_controls,
    rounded,
)
from attacks.crafting.objective import MisclassificationObjective
from attacks.crafting.policies import BeforeLast
from attacks.crafting.stages import of_others, stage_sizes
from attacks.crafting.white_box import WhiteBoxObjective
from data.randomness import generator
from models.solver import Solver
from tests.attacks.checks import bed, opened
from unlearning.first_order import FirstOrder
from unlearning.procedure import Procedure, Request
from unlearning.retrain import Retrain

EXACTLY = Retrain(solver=Solver(method="exact"))


def horizon(procedure: Procedure, early: float = 3.0, benign: int = 10, gone: tuple[int, ...] = (3, 5)) -> Horizon:
    """Three stages of two scenarios for the second of two goals, after some deletions."""
    of = bed(0)
    white_box = WhiteBoxObjective(
        opened(of, procedure), of.goals(of.targets(2)), of.attacker().reference, generator(0, "any"), 1
    )
    objective = MisclassificationObjective(stealth=1.0, kappa=5.0, tolerance=0.0)
    provider = white_box.service.forget(Request(gone))
    free = torch.ones(300, dtype=torch.bool)
    free[list(gone)] = False
    rng = generator(0, "scenarios")
    scenarios = torch.stack([of_others(free.nonzero()[:, 0], 3, benign, rng) for _ in range(2)])
    return Horizon(white_box, provider, 1, objective, BeforeLast(objective, early), [6, 6, 6], scenarios)


def some_controls(of: Horizon) -> Tensor:
    """Inside of all bounds, so that they may move either way; records that are gone have none."""
    drawn = torch.rand(3, 300, generator=generator(1, "controls"), dtype=torch.float64)
    return (0.002 + 0.016 * drawn) * (of.gone() == 0)


@pytest.mark.parametrize("procedure", [FirstOrder(rate=20.0), EXACTLY], ids=["first_order", "retrain"])
def test_the_adjoint_gradient_is_that_of_the_simulated_horizon(procedure: Procedure) -> None:
    """Central differences along random directions; costs of the stages, others' requests and earlier ones are in it."""
    of = horizon(procedure)
    controls, rng = some_controls(of), generator(2, "directions")
    value, slopes = cost_and_slopes(of, controls)
    assert value == pytest.approx(cost(of, controls), rel=1e-12)
    errors = []
    for _ in range(3):
        along = torch.randn(3, 300, generator=rng, dtype=torch.float64)
        numeric = (cost(of, controls + 1e-5 * along) - cost(of, controls - 1e-5 * along)) / 2e-5
        errors.append(abs(float((slopes * along).sum()) - numeric) / abs(numeric))
    print("relative errors", errors)
    assert max(errors) < 1e-5


def test_without_costs_of_stages_an_exact_chain_has_one_slope_a_record() -> None:
    """That of the total: it does not matter when a record is deleted that nobody else deletes."""
    of = horizon(EXACTLY)
    alone = Horizon(of.white_box, of.provider, 1, of.objective, None, of.sizes, of.scenarios)
    slopes = cost_and_slopes(alone, some_controls(of))[1]
    free = of.gone() == 0
    free[of.scenarios.flatten()] = False
    assert float((slopes[:, free] - slopes[0, free]).abs().max()) < 1e-12
    assert float(slopes[:, of.gone() > 0].abs().max()) == 0


def test_a_schedule_costs_what_the_provider_makes_of_it() -> None:
    """Whole records, one of which others ask for too, by real requests."""
    for procedure in (FirstOrder(rate=20.0), EXACTLY):
        of = horizon(procedure, early=0.0)
        theirs = of.scenarios[0]
        named = [[10, int(theirs[1, 0])], [int(theirs[1, 1]), 11], [12, int(theirs[0, 0])]]
        controls = torch.zeros(3, 300, dtype=torch.float64)
        for row, records in zip(controls, named, strict=True):
            row[records] = 1
        service, gone = of.provider, {3, 5}
        for stage in range(3):
            asked = [i for i in dict.fromkeys([*named[stage], *theirs[stage].tolist()]) if i not in gone]
            service, gone = service.forget(Request(tuple(asked))), gone | set(asked)
        one = Horizon(of.white_box, of.provider, 1, of.objective, None, of.sizes, of.scenarios[:1])
        models = [victim.copies(1) for victim in service.victims]
        expected = of.objective.loss(of.white_box.predicted(models, torch.tensor([1])))
        assert cost(one, controls) == pytest.approx(float(expected[0]), abs=1e-8)


def test_what_is_deleted_is_never_more_than_there_was() -> None:
    controls = torch.tensor([[0.5, 0.2, 0.0, 1.0], [0.25, 0.8, 0.0, 0.0]], dtype=torch.float64)
    gone = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    found = deletions(controls, torch.tensor([[2], [1]]), gone)
    expected = torch.tensor([[0.5, 0.2, 1.0, 0.0], [0.25, 0.8, 0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(found, expected)
    assert torch.equal(deletions(controls, torch.tensor([[1], [0]]), gone)[:, 1], torch.tensor([1.0, 0.0]).double())


def test_projection_is_the_nearest_point_within_the_bounds() -> None:
    """Against the variational inequality <w - P w, z - P w> <= 0 for allowed z, up to how close it ends."""
    rng, sizes = generator(0, "projection"), [2, 0, 3]
    for scale in (0.2, 1.0, 3.0):
        w = scale * torch.randn(3, 8, generator=rng, dtype=torch.float64) + 0.3
        nearest = project_controls(w, sizes)
        assert float(nearest.min()) >= 0
        assert bool((nearest.sum(0) <= 1 + 1e-9).all())
        assert bool((nearest.sum(1) <= torch.tensor(sizes) + 1e-9).all())
        for _ in range(200):
            z = torch.rand(3, 8, generator=rng, dtype=torch.float64)
            z = z * (torch.tensor(sizes) / z.sum(1)).clamp(max=1)[:, None]
            z = z / z.sum(0).clamp_min(1)
            assert float(((w - nearest) * (z - nearest)).sum()) < 0.02 * float((w - nearest).norm())


def test_rounding_takes_every_record_once_and_the_largest_controls_first() -> None:
    controls = torch.tensor([[0.9, 0.5, 0.5, 0.0], [0.8, 0.4, 0.0, 0.3]])
    slopes = torch.tensor([[-1.0, -1.0, -2.0, 0.0], [-1.0, -1.0, 0.0, -1.0]])
    found = [each.tolist() for each in rounded(controls, slopes, [2, 3])]
    assert found == [[0, 2], [1, 3]]


def test_stages_share_the_budget() -> None:
    assert stage_sizes(20, 5, None) == [4, 4, 4, 4, 4]
    assert stage_sizes(22, 5, None) == [5, 5, 5, 5, 2]
    assert stage_sizes(7, 4, 3) == [3, 3, 1, 0]
    assert stage_sizes(2, 5, None) == [1, 1, 0, 0, 0]


def test_a_plan_of_one_stage_is_the_best_of_all_sets() -> None:
    """First order without penalties: margins are linear in the controls of a single stage, so that slopes rank records.

    The hinge does not saturate, and no other class becomes the runner-up in this draw.
    """
    of = horizon(FirstOrder(rate=2.0))
    objective = MisclassificationObjective(stealth=0.0, kappa=50.0, tolerance=0.0)
    one = Horizon(of.white_box, of.provider, 1, objective, None, [2], of.scenarios[:, :1])
    allowed = torch.zeros(300, dtype=torch.bool)
    allowed[20:32] = True
    every = {}
    for pair in combinations(range(20, 32), 2):
        controls = torch.zeros(1, 300, dtype=torch.float64)
        controls[0, list(pair)] = 1
        every[pair] = cost(one, controls)
    best, worst = min(every, key=every.__getitem__), max(every, key=every.__getitem__)
    [found] = planned(one, allowed, [[torch.tensor(worst)]], steps=4, lr=0.5)
    assert sorted(found.tolist()) == list(best)


def test_a_plan_is_never_worse_than_where_it_starts() -> None:
    of = horizon(FirstOrder(rate=20.0))
    allowed = torch.zeros(300, dtype=torch.bool)
    allowed[100:200] = True
    starts = [[torch.arange(first + 6 * t, first + 6 * t + 6) for t in range(3)] for first in (100, 150)]

    def worth(schedule: list[Tensor]) -> float:
        controls = torch.zeros(3, 300, dtype=torch.float64)
        for row, positions in zip(controls, schedule, strict=True):
            row[positions] = 1
        return cost(of, controls)

    found = planned(of, allowed, starts, steps=4, lr=0.5)
    print("starts", [worth(each) for each in starts], "found", worth(found))
    assert worth(found) < min(worth(each) for each in starts)
    named = torch.cat(found)
    assert len(named.unique()) == len(named)
    assert [len(each) <= 6 for each in found] == [True] * 3
    assert bool(allowed[named].all())


def test_where_nothing_is_worth_asking_for_nothing_is_planned() -> None:
    """As where every target is won already: no control is above zero, after any step."""
    assert not project_controls(-torch.rand(3, 8), [2, 0, 3]).any()
    nothing, none = torch.zeros(300, dtype=torch.bool), torch.empty(0, dtype=torch.long)
    found = planned(horizon(FirstOrder(rate=20.0)), nothing, [[none] * 3], steps=2, lr=0.5)
    assert [len(each) for each in found] == [0, 0, 0]
