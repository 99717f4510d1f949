"""What the attack promises, on the Gaussian testbed with exact retraining."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from attacks.crafting.attack import AttackResult
from attacks.crafting.functionals import LogitGap, margins
from attacks.crafting.objective import MisclassificationObjective
from attacks.crafting.white_box import WhiteBoxObjective
from attacks.requester.misclassification import Misclassification
from attacks.requester.one_shot_influence import OneShotInfluence
from attacks.requester.random import Random
from data.randomness import generator
from tests.attacks.checks import bed, crafted, labels, on_goals, opened, unlearned
from unlearning.procedure import as_weights

COUNT, SEEDS = 7, range(3)


def margins_after(of, goals, requests: list[AttackResult]) -> Tensor:
    return margins(on_goals(unlearned(of, requests), goals).log(), labels(goals))


def objectives(of, goals, requests: list[AttackResult], attack: Misclassification) -> Tensor:
    """The attack's objective re-computed by the exact operator."""
    view = WhiteBoxObjective(opened(of), goals, of.attacker().reference, generator(0, "any"), 1)
    rows = as_weights([each.request for each in requests], of.task.records)
    return MisclassificationObjective(attack.stealth, attack.kappa, attack.tolerance).rank(
        view.after(rows, torch.arange(len(goals)))
    )


@pytest.fixture(scope="module")
def success() -> dict[tuple[str, int], float]:
    """ASR by attack and budget: means over seeds."""
    found: dict[tuple[str, int], list[float]] = {}
    for seed in SEEDS:
        of = bed(seed)
        goals = of.goals(of.targets(COUNT))
        for b in (6, 15, 30):
            for attack in (Misclassification(budget=b), Random(budget=b)):
                many = goals if attack.name == "misclassification" else goals * 3
                flipped = margins_after(of, many, crafted(attack, of, many)) < 0
                found.setdefault((attack.name, b), []).append(float(flipped.double().mean()))
    return {key: sum(values) / len(values) for key, values in found.items()}


def test_success_rates(success: dict[tuple[str, int], float]) -> None:
    """b=6 >= 0.35, b=15 >= 0.75, b=30 >= 0.95; random requests of equal size <= 0.1."""
    print("ASR", success)
    for b, least in ((6, 0.35), (15, 0.75), (30, 0.95)):
        assert success["misclassification", b] >= least
        assert success["random", b] <= 0.1


@pytest.mark.parametrize("b", [6, 15])
def test_never_worse_than_the_one_shot_set(b: int) -> None:
    """For the attack's objective; with a hinge that never saturates this is the margin itself."""
    margin_only = Misclassification(budget=b, kappa=50, stealth=0)
    gains = []
    for seed in SEEDS[:1]:
        of = bed(seed)
        goals = of.goals(of.targets(8))
        one_shot = crafted(OneShotInfluence(budget=b, functional=LogitGap()), of, goals)
        for attack in (margin_only, Misclassification(budget=b)):
            found = crafted(attack, of, goals)
            gain = objectives(of, goals, one_shot, attack) - objectives(of, goals, found, attack)
            assert gain.min() >= -1e-9
            gains.append(float(gain.mean()))
    assert max(gains) > 0


def test_reported_objective_is_that_of_the_rounded_request() -> None:
    """Sets, not weights; the claimed value is what the exact operator gives."""
    of, attack = bed(1), Misclassification(budget=6)
    goals = of.goals(of.targets(6))
    found = crafted(attack, of, goals)
    claimed = torch.tensor([each.objective for each in found], dtype=torch.float64)
    assert (claimed - objectives(of, goals, found, attack)).abs().max() < 1e-9
    for each in found:
        assert 0 < len(each.request) <= 6
        assert len(set(each.request.indices)) == len(each.request)
        assert each.curve[-1] == each.objective
        assert all(a >= b for a, b in zip(each.curve, each.curve[1:], strict=False))


def test_norm_cap_needs_white_box_access() -> None:
    with pytest.raises(ValidationError, match="white_box"):
        Misclassification(access="black_box", norm_cap=0.5)
