"""Label-only feedback: what noisy copies say of a margin, the objectives in closed form, and what they reach."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from attacks.crafting.attack import AttackGoal, AttackResult
from attacks.crafting.black_box import BlackBoxObjective
from attacks.crafting.functionals import Entropy, margins
from attacks.crafting.label_only import LabelsKept, LabelsLost, Probes, has_label
from attacks.crafting.objective import CandidatePredictions
from attacks.requester.misclassification import Misclassification
from attacks.requester.random import Random
from attacks.requester.uncertainty import Uncertainty
from data.errors import UserError
from data.randomness import generator
from tests.attacks.checks import OVER, bed, closed, confidence_change, labels, on_goals, unlearned
from unlearning.procedure import Request
from unlearning.second_order import SecondOrder

STEP = SecondOrder()


def predictions(answers: Tensor, targets: list[int], reference: Tensor, truth: list[int]) -> CandidatePredictions:
    """Labels (m, 1 + P, T) of targets and their copies, and (m, R) of reference examples, as a service answers."""

    def as_log(given: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(given, 3).double().clamp_min(1e-300).log()

    return CandidatePredictions(
        log_p=as_log(answers),
        labels=torch.tensor(targets).expand(len(answers), -1),
        direction=torch.ones(len(answers), dtype=torch.float64),
        reference=as_log(reference)[:, None],
        reference_labels=torch.tensor([0, 1, 2, 0]),
        reference_truth=torch.tensor(truth),
        reference_loss=torch.tensor(0.0),
    )


@pytest.fixture
def two() -> CandidatePredictions:
    """Two candidates; targets of labels 0 and 1, four copies of each; of four references the victim has one wrong."""
    answers = torch.tensor(
        [[[0, 1], [0, 1], [0, 2], [1, 1], [1, 1]], [[2, 1], [1, 1], [2, 1], [2, 1], [0, 1]]]
    )  # [candidate][target itself, then its copies][target]
    return predictions(answers, [0, 1], torch.tensor([[0, 1, 2, 0], [1, 1, 2, 2]]), [0, 1, 2, 1])


def test_objectives_are_what_they_say(two: CandidatePredictions) -> None:
    assert has_label(two).sum(1).tolist() == [[3, 4], [1, 5]]
    lost = LabelsLost(stealth=0.0, tolerance=0.0)
    assert lost.rank(two).tolist() == [1 + 0.5 + 1 + 0.75, 0 + 0.25 + 1 + 1]
    toward = LabelsLost(stealth=0.0, tolerance=0.0, toward=2)
    assert toward.rank(two).tolist() == [1 + 1 + 1 + 0.75, 0 + 0.5 + 1 + 1]
    # error rates: 1/4 at first, 1/4 and 2/4 of the candidates
    assert (LabelsLost(2.0, 0.0).rank(two) - lost.rank(two)).tolist() == pytest.approx([0, 0.5])
    assert (LabelsLost(2.0, 0.5).rank(two) - lost.rank(two)).tolist() == pytest.approx([0, 0.25])
    assert torch.equal(LabelsLost(2.0, 0.5).without_penalties().loss(two), lost.loss(two))
    assert LabelsLost(2.0, 0.5).feasible(two).tolist() == [True, True]
    kept = LabelsKept(keep=5.0, keep_reference=1.0)
    assert kept.rank(two).tolist() == [1.25, 1.25]
    assert kept.loss(two).tolist() == [1.25, 1.25 + 5 + 0.5]
    assert kept.feasible(two).tolist() == [True, False]
    free = LabelsKept(keep=5.0, keep_reference=1.0, feasible_first=False)
    assert torch.equal(free.rank(two), free.loss(two))
    assert free.feasible(two).tolist() == [True, True]
    assert torch.equal(kept.without_penalties().loss(two), kept.effect(two))


def test_shares_estimate_the_distance_to_a_flat_boundary() -> None:
    """s_t is Phi(d / noise) to within five standard errors; two classes of a linear model have a flat boundary."""
    count, noise = 4000, 0.8
    normal = torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64) / 3
    x = torch.randn(6, 3, generator=generator(0, "points"), dtype=torch.float64)
    side = (x @ normal > 0).long()
    copies = Probes(count=count, noise=noise).around(AttackGoal(x, side, 1), generator(0, "probes"))
    share = ((copies @ normal > 0).long() == side).double().mean(0)
    expected = 0.5 * (1 + torch.erf((x @ normal).abs() / noise / math.sqrt(2)))
    assert ((share - expected).abs() <= 5 * 0.5 / math.sqrt(count)).all()


def test_noise_is_common_to_all_candidates_and_reproducible() -> None:
    of = bed(0)
    [goal] = of.goals(of.targets(1))
    one, other = (Probes(count=3).around(goal, generator(0, "p")) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (3, 1, 10)
    service, meter = closed(of, STEP, 5, "labels")
    view = BlackBoxObjective(service, goal, of.attacker(), LabelsLost(0.0, 0.0), one)
    assert meter.predictions == 2 * 100 + 1 + 3  # reference examples twice, the target and its copies
    inputs = torch.cat([goal.x, one[:, 0]])
    child = service.forget(Request((4, 9)))
    seen = view.predictions([service, child])
    assert seen.log_p.shape == (2, 4, 1, 3)
    for row, model in enumerate((of.victim, unlearned(of, [_named(4, 9)], STEP)[0])):
        assert torch.equal(seen.log_p[row, :, 0].argmax(-1), model.logits(inputs).argmax(-1))
        assert torch.equal(seen.reference[row, 0].argmax(-1), model.logits(of.attacker().reference.x).argmax(-1))


def _named(*indices: int) -> AttackResult:
    return AttackResult(Request(indices), 0.0)


BUDGET, QUERIES = 15, 205
ASKING = {"budget": BUDGET, "queries": QUERIES}


def test_labels_reach_a_good_share_of_what_scores_do() -> None:
    """At equal queries, on the same targets; random requests move nothing."""
    found: dict[str, list[Tensor]] = {}
    for seed in range(2):
        of = bed(seed)
        goals = of.goals(of.targets(3))
        start = margins(on_goals(of.victim.copies(len(goals)), goals).log(), labels(goals))
        attacks = {
            feedback: Misclassification(access="black_box", feedback=feedback, kappa=50, stealth=0, **ASKING)
            for feedback in ("score", "labels")
        }
        for name, attack in {**attacks, "random": Random(budget=BUDGET)}.items():
            served = [closed(of, STEP, QUERIES, "score" if name == "random" else name) for _ in goals]
            results = attack.craft([service for service, _ in served], goals, of.attacker(), generator(seed, "attack"))
            after = margins(on_goals(unlearned(of, results, STEP), goals).log(), labels(goals))
            found.setdefault(name, []).append(start - after)
            if name == "labels":
                assert all(meter.queries <= QUERIES for _, meter in served)
    fall = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    print("fall of the mean margin", fall)
    assert fall["labels"] >= 0.5 * fall["score"] > 0
    assert abs(fall["random"]) < 0.2 * fall["labels"]


def test_uncertainty_from_labels_keeps_them() -> None:
    of = bed(0)
    goals = of.goals(of.in_band(*OVER[1:], 3), OVER[0])
    attack = Uncertainty(access="black_box", feedback="labels", **ASKING)
    services = [closed(of, STEP, QUERIES, "labels")[0] for _ in goals]
    one = attack.craft(services, goals, of.attacker(), generator(0, "attack"))
    change, kept = confidence_change(of, goals, unlearned(of, one, STEP))
    print("change of confidence", change.tolist())
    assert bool(kept.all())
    assert float(change.mean()) > 0.05
    services = [closed(of, STEP, QUERIES, "labels")[0] for _ in goals]
    assert attack.craft(services, goals, of.attacker(), generator(0, "attack")) == one  # bit by bit


def test_what_does_not_go_together_is_said() -> None:
    for attack in (Misclassification, Uncertainty):
        with pytest.raises(ValidationError, match="feedback=labels is a black-box setting"):
            attack(access="white_box", feedback="labels")
    with pytest.raises((UserError, ValidationError), match="nothing but confidence"):
        Uncertainty(access="black_box", feedback="labels", functional=Entropy())
    for wrong in ({"count": 0}, {"noise": 0.0}):
        with pytest.raises(ValidationError):
            Probes(**wrong)
