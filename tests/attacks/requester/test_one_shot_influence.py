from __future__ import annotations

import torch

from attacks.crafting.functionals import LogitGap
from attacks.requester.one_shot_influence import OneShotInfluence
from attacks.requester.random import Random
from data.randomness import generator
from models.gradients import per_example_gradients
from models.solver import Solver
from models.victim import unflatten
from tests.attacks.checks import bed, confidence_change, crafted, opened, unlearned
from tests.testbed import LAMBDA, TRAINING
from unlearning.retrain import Retrain


def dense_influence(of, x: torch.Tensor, label: int) -> torch.Tensor:
    """<H^{-1} grad m_label(x), g_i> (n,) by dense algebra: the predicted change of the margin when i is deleted."""
    like = of.victim.parameters

    def margin(flat: torch.Tensor) -> torch.Tensor:
        p = unflatten(flat, like)
        logits = p["linear.weight"] @ x + p["linear.bias"]
        return logits[label] - logits[[k for k in range(3) if k != label]].max()

    def objective(flat: torch.Tensor) -> torch.Tensor:
        p = unflatten(flat, like)
        logits = of.task.records.x @ p["linear.weight"].T + p["linear.bias"]
        loss = torch.nn.functional.cross_entropy(logits, of.task.records.y, reduction="sum")
        return loss + LAMBDA / 2 * flat @ flat

    theta = of.victim.flat()
    hessian = torch.autograd.functional.hessian(objective, theta)
    slope = torch.func.grad(margin)(theta)
    return per_example_gradients(of.victim, of.task.records) @ torch.linalg.solve(hessian, slope)


def test_names_the_records_with_the_largest_influence() -> None:
    """Top b of -<H^{-1} q, g_i> with q the gradient of the margin, for direction +1 and the logit gap."""
    of = bed(0)
    goals = of.goals(of.targets(3))
    attack = OneShotInfluence(budget=15, functional=LogitGap())
    service = opened(of, Retrain(solver=Solver(tolerance=1e-12)))
    found = attack.craft([service], goals, of.attacker(), generator(0, "unused"))
    for goal, each in zip(goals, found, strict=True):
        scores = dense_influence(of, goal.x[0], int(goal.labels[0]))
        assert list(each.request.indices) == scores.argsort()[:15].tolist()
    assert service.meter.operator_calls == 0


def test_moves_targets_much_more_than_random_requests() -> None:
    of = bed(1)
    goals = of.goals(of.in_band(0.45, 0.65, 8), -1)
    influenced = confidence_change(of, goals, unlearned(of, crafted(OneShotInfluence(budget=15), of, goals)))[0]
    random = confidence_change(of, goals, unlearned(of, crafted(Random(budget=15), of, goals)))[0]
    assert influenced.mean() > 0.2
    assert abs(float(random.mean())) < 0.02


def test_names_exactly_its_budget_from_the_pool_below_the_norm_cap() -> None:
    of, pool = bed(2), torch.arange(1, TRAINING, 2)
    found = crafted(OneShotInfluence(budget=10, norm_cap=0.7), of, of.goals(of.targets(4)), pool)
    norms = per_example_gradients(of.victim, of.task.records).norm(dim=1)
    for each in found:
        assert len(set(each.request.indices)) == 10
        assert set(each.request.indices) <= set(pool.tolist())
        assert norms[list(each.request.indices)].max() <= norms.quantile(0.7)
