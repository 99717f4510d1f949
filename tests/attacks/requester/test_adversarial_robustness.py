"""What the attack does to robust accuracy, on the Gaussian testbed in float64, beside random requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.crafting.attack import AttackGoal
from attacks.crafting.criterion import criterion_of, described
from attacks.crafting.perturbation import Perturbation
from attacks.requester.adversarial_robustness import AdversarialRobustness
from attacks.requester.random import Random
from experiments.play.play import cached
from experiments.play.setup import prepare
from models.victim import ModelStack
from tests.attacks.checks import accuracy, bed, crafted, labels, on_goals, unlearned
from tests.experiments.games import config

RADIUS, SEEDS, COUNT = 0.1, range(3), 10
WITHIN = Perturbation(radius=RADIUS, steps=100, rivals=2)  # exact for this linear model


def robust(of, models: ModelStack, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Whether model i keeps the label of input j within the perturbation, (m, n)."""
    return WITHIN.within(of.task.records.x).probabilities([models], x, y).argmax(-1) == y


def measured(of, goals, budget: int) -> dict[str, float]:
    """Robust and clean accuracy of the targets, each under the model of its own request, and test accuracy."""
    x, y, found = torch.cat([goal.x for goal in goals]), labels(goals), {}
    each = torch.arange(len(goals))
    found["robust before"] = float(robust(of, of.victim.copies(1), x, y).double().mean())
    for attack in (
        AdversarialRobustness(budget=budget, perturbation=Perturbation(radius=RADIUS)),
        Random(budget=budget),
    ):
        models = unlearned(of, crafted(attack, of, goals))
        found[f"robust, {attack.name}"] = float(robust(of, models, x, y)[each, each].double().mean())
        found[f"clean, {attack.name}"] = float((on_goals(models, goals).argmax(1) == y).double().mean())
        found[f"test accuracy, {attack.name}"] = accuracy(models, of)
    return found


def mean(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(sum(run[name] for run in runs) / len(runs), 3) for name in runs[0]}


@pytest.mark.parametrize("budget", [6, 15])
def test_robust_accuracy_falls_by_more_than_with_random_requests(budget: int) -> None:
    """One request a target: by at least 0.4 more, at a cost of at most 2 points of accuracy on all test examples."""
    found = mean([measured(of, of.goals(of.targets(COUNT)), budget) for of in map(bed, SEEDS)])
    print(budget, found)
    name = AdversarialRobustness.name
    assert found[f"robust, {name}"] <= found["robust, random"] - 0.4
    assert found["test accuracy, random"] - found[f"test accuracy, {name}"] <= 0.02


def test_one_request_for_many_targets() -> None:
    """And robust accuracy of the whole test set, which is larger than the targets, falls too, if less."""
    runs = []
    for of in map(bed, SEEDS):
        positions = of.targets(40)
        y = of.victim.logits(of.test.x).argmax(-1)
        goal = AttackGoal(of.test.x[positions], y[positions], 1)
        run = {"robust before": float(robust(of, of.victim.copies(1), goal.x, goal.labels).double().mean())}
        for attack in (AdversarialRobustness(budget=30, perturbation=Perturbation(radius=RADIUS)), Random(budget=30)):
            models = unlearned(of, crafted(attack, of, [goal]))
            run[f"robust, {attack.name}"] = float(robust(of, models, goal.x, goal.labels).double().mean())
            right = robust(of, models, of.test.x, of.test.y)
            run[f"robust test accuracy, {attack.name}"] = float(right.double().mean())
            run[f"test accuracy, {attack.name}"] = accuracy(models, of)
        runs.append(run)
    found = mean(runs)
    print(found)
    name = AdversarialRobustness.name
    assert found[f"robust, {name}"] <= found["robust, random"] - 0.1
    assert found[f"robust test accuracy, {name}"] < found["robust test accuracy, random"]


def test_the_criterion_is_that_a_label_is_lost_nearby() -> None:
    attack = AdversarialRobustness(perturbation=Perturbation(norm="l2", radius=0.25))
    criterion = criterion_of(attack)
    words = "another label within 0.25 of the target in l2 (50 steps of ascent to each of 3 labels)"
    assert described(criterion)["goal"] == words
    kept = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert criterion.attained(torch.zeros(2, dtype=torch.float64), kept).tolist() == [0, 1]
    assert criterion.success(torch.zeros(2), kept).tolist() == [False, True]


def play(folder: Path, *overrides: str) -> dict[str, Any]:
    words = ("attack=adversarial_robustness", "unlearning=first_order", "attack.perturbation.radius=0.3")
    return cached(prepare(config(folder, *words, *overrides)), 0)[0]


def test_a_game_judges_every_state_at_its_own_worst_inputs(tmp_path: Path) -> None:
    """Success is a label lost nearby, also before; labels kept are those of the targets themselves."""
    record = play(tmp_path, "defense=none")
    assert record["criterion"]["name"] == "label lost nearby"
    states = record["victim_seed"]
    for name in ("before", "after", "random", "nearest", "stream", "defended", "processed"):
        lost, kept = states[name]["success"], states[name]["kept"]
        assert all(loss >= 1 - keep for loss, keep in zip(lost, kept, strict=True)), name  # e = 0 is one perturbation
    after, random = (sum(states[name]["attained"]) for name in ("after", "random"))
    print("lost nearby: before", sum(states["before"]["success"]), "after", after, "random", random)
    assert after > random
    assert states["before"]["kept"] == [1.0] * len(states["before"]["kept"])


def test_the_whole_game_goes_through_a_filter_and_fresh_seeds(tmp_path: Path) -> None:
    """Quarantined requests and fresh seeds are judged at worst inputs, too."""
    record = play(tmp_path, "defense=influence", "judge=full", "unlearning=retrain", "attack.steps=1")
    for state in ("after", "random", "nothing", "defended"):
        for each in record["fresh_seeds"][state]:
            assert all(a >= 1 - k for a, k in zip(each["success"], each["kept"], strict=True))
    assert len(record["victim_seed"]["processed"]["success"]) == len(record["targets"]["position"])
