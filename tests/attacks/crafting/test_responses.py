"""A linear forecast of what deletions do: exact for one Newton step of a linear model, from predictions alone."""

from __future__ import annotations

import pytest
import torch

from attacks.crafting.black_box import BlackBoxObjective
from attacks.crafting.functionals import Confidence, Entropy
from attacks.crafting.label_only import LabelsLost, Probes
from attacks.crafting.objective import MisclassificationObjective, Objective, UncertaintyObjective
from attacks.crafting.responses import SHRINKAGE, responses, similarities, softened, wanted
from data.randomness import generator
from models.solver import Solver
from tests.attacks.checks import bed, closed
from unlearning.procedure import Request
from unlearning.second_order import SecondOrder

NEWTON = SecondOrder(solver=Solver(method="dense", tolerance=1e-3))


def test_similarities_are_a_whitened_inner_product() -> None:
    """Whitened by the records whose answers are unsure; sure ones have no curvature."""
    x = torch.randn(50, 4, generator=generator(0, "x"), dtype=torch.float64)
    targets = torch.randn(3, 4, generator=generator(1, "x"), dtype=torch.float64)
    answers = torch.tensor([[0.5, 0.5]] * 25 + [[1.0, 0.0]] * 25, dtype=torch.float64)
    unsure = x[:25] - x.mean(0)
    covariance = unsure.T @ unsure / 25
    covariance += SHRINKAGE * covariance.diagonal().mean() * torch.eye(4, dtype=torch.float64)
    expected = 1 + (x - x.mean(0)) @ torch.linalg.inv(covariance) @ (targets - x.mean(0)).T
    assert (similarities(x, targets, answers) - expected).abs().max() < 1e-12


def test_a_record_that_is_right_pulls_its_own_label_up() -> None:
    """Without it the target's logit of that label falls where they are alike, and rises where they are unlike."""
    answers = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
    pushes = responses(torch.tensor([[2.0], [-1.0]]), answers, torch.tensor([0, 1]))
    assert torch.equal(pushes[:, 0], torch.tensor([[-0.5, 0.5], [-0.75, 0.75]]))


@pytest.mark.parametrize("objective", [
    UncertaintyObjective(Confidence(), 0.0, 0.0, 0.05),
    UncertaintyObjective(Entropy(), 0.0, 0.0, 0.05),
    MisclassificationObjective(0.0, 0.1, 0.01),
], ids=["confidence", "entropy", "margin"])  # fmt: skip
def test_forecasts_go_with_what_single_deletions_do(objective: Objective) -> None:
    """On 100 records, for targets one by one; the model is linear, but its classes do not share their curvature."""
    of = bed(0)
    pool, found = torch.arange(100), []
    for goal in of.goals(of.in_band(0.75, 0.95, 4), 1):
        service, _ = closed(of, NEWTON, 100)
        black_box = BlackBoxObjective(service, goal, of.attacker(pool), objective)
        gains = black_box.forecast()
        after = black_box.predictions(service.forget_each([Request((i,)) for i in pool.tolist()]))
        true = objective.loss(black_box.now) - objective.loss(after)
        found.append(float(torch.corrcoef(torch.stack([gains, true]))[0, 1]))
    print("correlations", found)
    assert min(found) >= 0.8


def test_slopes_are_those_of_the_targets_logits() -> None:
    of = bed(0)
    goal, objective = of.goals(of.in_band(0.75, 0.95, 1), 1)[0], UncertaintyObjective(Confidence(), 0, 0, 0)
    black_box = BlackBoxObjective(closed(of, NEWTON, 1)[0], goal, of.attacker(), objective)
    p, y = of.victim.probabilities(goal.x)[0], int(goal.labels[0])
    expected = p[y] * (torch.nn.functional.one_hot(goal.labels[0], len(p)) - p)  # d p_y / d logits, which is to fall
    assert torch.allclose(wanted(objective, black_box.now)[0], expected.to(p), atol=1e-9)


def test_labels_alone_are_forecast_from_too() -> None:
    """Answers are 0 and 1, and the target's own copies keep its label: it is the softening that leaves slopes."""
    of = bed(0)
    goal = of.goals(of.in_band(0.75, 0.95, 1), 1)[0]
    noisy = Probes(count=20, noise=1e-6).around(goal, generator(0, "probes"))
    aim = MisclassificationObjective(1.0, 0.1, 0.01)
    service, _ = closed(of, NEWTON, 1, "labels")
    black_box = BlackBoxObjective(service, goal, of.attacker(), LabelsLost(1.0, 0.01), noisy, aim)
    gains = black_box.forecast()
    best = gains.argsort(descending=True)[:10]
    assert torch.isfinite(gains).all()
    assert float(gains.std()) > 0
    right = of.attacker().owned.y[best] == goal.labels[0]
    assert right.double().mean() >= 0.9  # what lends the label its support
    assert softened(torch.tensor([1.0, 0.0])).tolist() == pytest.approx([1.01 / 1.02, 0.01 / 1.02])
