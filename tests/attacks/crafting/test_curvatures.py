"""Slopes through several curvatures, on a testbed whose training ends short of the minimum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.crafting.curvatures import Slopes, services_of
from attacks.crafting.functionals import Confidence
from attacks.crafting.objective import UncertaintyObjective
from attacks.crafting.selection import Search, most_useful, select
from attacks.crafting.white_box import WhiteBoxObjective
from data.randomness import generator
from models.solver import Solver
from models.training import Training
from tests.attacks.checks import UNDER, bed, opened
from tests.testbed import Testbed
from unlearning.procedure import as_weights
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder

DAMPINGS = (0.01, 1.0)
OBJECTIVE = UncertaintyObjective(Confidence(), 0.0, 0.0, 0.05, feasible_first=False)
Scene = tuple[Testbed, WhiteBoxObjective]


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Four targets of under-confidence, and a victim after 40 epochs of gradient descent."""
    of = bed(2)
    task = replace(of.task, training=Training(epochs=40, batch_size=300, lr=0.2, weight_decay=1 / 300))
    of = replace(of, task=task, victim=Retrain().learn(task, of.seed))
    goals = of.goals(of.in_band(*UNDER[1:], 4), 1)
    return of, WhiteBoxObjective(opened(of), goals, of.attacker().reference, generator(0, "curvatures"), 1)


def one_shot(of: Testbed, white_box: WhiteBoxObjective, damping: float) -> Tensor:
    """The 12 records with the smallest slopes at w = 0, from a procedure that has this damping: boolean rows."""
    service = opened(of, Retrain(solver=Solver(damping=damping)))
    nothing = torch.zeros(len(white_box.labels), len(of.task.records), dtype=torch.float64)
    slopes = white_box.slopes(nothing, OBJECTIVE, white_box.start, service=service)
    chosen = most_useful(slopes, torch.ones(len(of.task.records), dtype=torch.bool), 12)
    return torch.zeros_like(slopes, dtype=torch.bool).scatter(1, chosen, True)


def test_the_best_of_all_one_shot_sets_is_reached(scene: Scene) -> None:
    """No result is worse than the set of any curvature; and the curvatures name different sets."""
    of, white_box = scene
    found = select(white_box, OBJECTIVE, of.attacker(), Search(12, 1, 0.5, 0, dampings=DAMPINGS))
    values = torch.tensor([each.objective for each in found], dtype=torch.float64)
    sets = [one_shot(of, white_box, damping) for damping in (0.0, *DAMPINGS)]
    assert not torch.equal(sets[0], sets[2])
    for each in sets:
        ranks = OBJECTIVE.rank(white_box.after(each.double(), torch.arange(len(values))))
        assert (values <= ranks + 1e-12).all()


def test_every_goal_has_the_slopes_of_its_own_curvature(scene: Scene) -> None:
    of, white_box = scene
    services = services_of(white_box.service, DAMPINGS)
    assert len(services) == 3
    chosen = torch.tensor([2, 0, 1, 0])
    weights = torch.rand(4, len(of.task.records), generator=generator(0, "w"), dtype=torch.float64) * 0.1
    found = Slopes(white_box, services, chosen)(weights, OBJECTIVE, white_box.service.unlearn)
    for goal, number in enumerate(chosen.tolist()):
        row = weights[goal : goal + 1]
        own = white_box.slopes(row, OBJECTIVE, white_box.service.unlearn, torch.tensor([goal]), services[number])
        assert (found[goal] - own[0]).abs().max() <= 1e-9 * own.abs().max()


def test_where_slopes_are_exact_there_is_nothing_to_try() -> None:
    """At the minimum of a convex objective, and of a step that has its own damping; the search is what it was."""
    of = bed(1)
    assert len(services_of(opened(of), DAMPINGS)) == 1
    assert len(services_of(opened(of, SecondOrder()), DAMPINGS)) == 1
    goals = of.goals(of.in_band(*UNDER[1:], 3), 1)
    found = []
    for dampings in ((), DAMPINGS):
        white_box = WhiteBoxObjective(opened(of), goals, of.attacker().reference, generator(1, "s"), 1)
        found.append(select(white_box, OBJECTIVE, of.attacker(), Search(12, 2, 0.5, 4, 1, 2, dampings)))
    assert found[0] == found[1]


def test_models_do_not_depend_on_the_damping(scene: Scene) -> None:
    of, white_box = scene
    rows = as_weights([select(white_box, OBJECTIVE, of.attacker(), Search(5, 1, 0.5, 0))[0].request], of.task.records)
    flats = [service.unlearn(rows)[0].flat() for service in services_of(white_box.service, DAMPINGS)]
    assert torch.equal(flats[0], flats[1])
    assert torch.equal(flats[0], flats[2])
