"""Transfer on the Gaussian testbed: what a surrogate is worth, and that nothing of the provider goes into it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.functionals import Confidence, LogitGap, margins
from attacks.crafting.transfer import as_provider_counts, as_surrogate_counts, check_surrogate, surrogate_task
from attacks.requester.adversarial_robustness import AdversarialRobustness
from attacks.requester.backdoor import Backdoor
from attacks.requester.burn import Burn
from attacks.requester.flexible import Flexible
from attacks.requester.misclassification import Misclassification
from attacks.requester.nearest import Nearest
from attacks.requester.one_shot_influence import OneShotInfluence
from attacks.requester.random import Random
from attacks.requester.sequential import Sequential
from attacks.requester.uncertainty import Uncertainty
from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, generator
from tests.attacks.checks import UNDER, bed, closed, confidence_change, labels, on_goals, opened, unlearned
from tests.testbed import TRAINING, Testbed
from unlearning.first_order import FirstOrder
from unlearning.procedure import Procedure, Request
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.service import OpenService

BUDGET, COUNT, SEEDS, SHARES = 15, 6, range(3), (0.2, 0.5, 1.0)
PLAIN = {
    "budget": BUDGET,
    "kappa": 50.0,
    "stealth": 0.0,
    "steps": 2,
}  # a hinge that does not saturate: the margin itself
ONE_SHOT = OneShotInfluence(budget=BUDGET, access="transfer", functional=LogitGap())
CLASSES = ("a", "b", "c")


def attacker(of: Testbed, share: float) -> Attacker:
    """One that owns a share of the records, drawn at random."""
    order = torch.randperm(TRAINING, generator=generator(of.seed, "owned"))
    return of.attacker(order[: round(share * TRAINING)].sort().values)


def surrogate(of: Testbed, mine: Attacker, procedure: Procedure) -> OpenService:
    task, seed = surrogate_task(of.task, mine), derive(of.seed, "surrogate")
    return OpenService(task, procedure, (procedure.learn(task, seed),), (seed,))


def transferred(
    attack, of: Testbed, goals: list[AttackGoal], mine: Attacker, procedure: Procedure
) -> list[AttackResult]:
    seen, rng = as_surrogate_counts(mine), generator(of.seed, "attack")
    return as_provider_counts(attack.craft([surrogate(of, mine, procedure)], goals, seen, rng), mine)


def after(of: Testbed, goals: list[AttackGoal], requests: list[AttackResult], procedure: Procedure) -> Tensor:
    return margins(on_goals(unlearned(of, requests, procedure), goals).log(), labels(goals))


@cache
def rates(procedure: Procedure) -> dict[tuple[str, float], float]:
    """ASR by attack and share that the attacker owns: means over targets and seeds."""
    found: dict[tuple[str, float], list[Tensor]] = {}
    for seed in SEEDS:
        of = bed(seed)
        goals = of.goals(of.targets(COUNT))
        for share in SHARES:
            mine, rng = attacker(of, share), generator(seed, "attack")
            requests = {
                "white-box": Misclassification(access="white_box", **PLAIN).craft(
                    [opened(of, procedure)], goals, mine, rng
                ),
                "transfer": transferred(Misclassification(access="transfer", **PLAIN), of, goals, mine, procedure),
                "one-shot transfer": transferred(ONE_SHOT, of, goals, mine, procedure),
                "random": Random(budget=BUDGET).craft(
                    [closed(of, procedure, 1)[0] for _ in goals], goals, mine, generator(seed, "random")
                ),
            }
            for name, each in requests.items():
                found.setdefault((name, share), []).append(after(of, goals, each, procedure) < 0)
    return {key: float(torch.cat(values).double().mean()) for key, values in found.items()}


@pytest.mark.parametrize("procedure", [Retrain(), SecondOrder()], ids=lambda p: type(p).__name__)
def test_a_surrogate_serves_and_serves_better_with_more_records(procedure: Procedure) -> None:
    """No more than white-box access does, which knows the model; far more than random requests do."""
    found = rates(procedure)
    print("ASR", {f"{name} {share:.0%}": round(rate, 2) for (name, share), rate in found.items()})
    for share in SHARES:
        assert found["random", share] <= 0.1
        assert found["transfer", share] >= found["random", share] + 0.2
        assert found["transfer", share] <= found["white-box", share] + 1 / (COUNT * len(SEEDS))  # one target
    assert found["transfer", 0.2] < found["transfer", 0.5] <= found["transfer", 1.0]
    assert found["transfer", 1.0] >= 0.8 * found["white-box", 1.0]


def test_margins_that_are_asked_for_make_requests_transfer() -> None:
    """A surrogate that has the label wrong already has nothing left to search for, unless a margin is asked for."""
    small, large = [], []
    for seed in SEEDS[:2]:
        of = bed(seed)
        goals, mine = of.goals(of.targets(COUNT)), attacker(of, 0.5)
        for kappa, kept in ((0.1, small), (5.0, large)):
            attack = Misclassification(budget=BUDGET, access="transfer", kappa=kappa)
            requests = transferred(attack, of, goals, mine, Retrain())
            kept.append(after(of, goals, requests, Retrain()))
            if kappa == 5.0:
                assert all(each.request.indices for each in requests)
    before, now = torch.cat(small), torch.cat(large)
    for kappa, left in ((0.1, before), (5, now)):
        print(f"kappa {kappa}: mean margin {float(left.mean()):.2f}, ASR {float((left < 0).double().mean()):.2f}")
    assert now.mean() < before.mean()
    assert (now < 0).sum() >= (before < 0).sum()


def test_uncertainty_transfers() -> None:
    """Under-confidence: confidence falls, by less than with the model; labels are kept on the surrogate alone."""
    change, kept, control = [], [], []
    for seed in SEEDS[:2]:
        of = bed(seed)
        goals, mine = of.goals(of.in_band(*UNDER[1:], COUNT), UNDER[0]), attacker(of, 0.5)
        requests = transferred(Uncertainty(budget=BUDGET, access="transfer"), of, goals, mine, Retrain())
        moved, stays = confidence_change(of, goals, unlearned(of, requests))
        change.append(moved)
        kept.append(stays)
        drawn = Random(budget=BUDGET).craft(
            [closed(of, Retrain(), 1)[0] for _ in goals], goals, mine, generator(seed, "r")
        )
        control.append(confidence_change(of, goals, unlearned(of, drawn))[0])
    print("change, random, kept", [float(torch.cat(each).double().mean()) for each in (change, control, kept)])
    assert float(torch.cat(change).mean()) < -0.1
    assert abs(float(torch.cat(control).mean())) < 0.03


STEP = FirstOrder(rate=8.0)
EVERY = (
    (Misclassification(budget=4, access="transfer"), STEP),
    (Misclassification(budget=4, access="transfer", records="random", copies={"radius": 0.3, "steps": 2}), STEP),
    (Uncertainty(budget=4, access="transfer"), STEP),
    (OneShotInfluence(budget=4, access="transfer", norm_cap=0.7), STEP),
    (Flexible(budget=4, access="transfer", sets=16, candidates=32), STEP),
    (AdversarialRobustness(budget=4, access="transfer"), STEP),
    (Sequential(budget=4, stages=2, benign=2, access="transfer"), STEP),
    (Burn(budget=4, access="transfer", copies={"radius": 0.3, "steps": 2}), STEP),
    (Backdoor(budget=4, method="transfer"), STEP),
    (Nearest(budget=4, space="surrogate"), Retrain()),
)


@pytest.mark.parametrize(("attack", "procedure"), EVERY, ids=lambda each: type(each).__name__)
def test_every_attack_that_opens_a_model_crafts_on_a_surrogate(attack, procedure: Procedure) -> None:
    """Requests name the attacker's records, never its reference examples; bit by bit the same when asked again."""
    of = bed(0)
    goals, mine = of.goals(of.targets(2)), attacker(of, 0.2)
    one, other = (transferred(attack, of, goals, mine, procedure) for _ in range(2))
    pool = set(mine.pool.tolist())
    for a, b in zip(one, other, strict=True):
        assert a.request.indices
        assert a.request.indices == b.request.indices
        assert set(a.request.indices) <= pool
        if a.request.examples is not None:
            assert b.request.examples is not None
            assert torch.equal(a.request.examples.x, b.request.examples.x)
            stored = of.task.records[list(a.request.indices)]
            assert torch.equal(a.request.examples.y, stored.y)
            assert float((a.request.examples.x - stored.x).abs().max()) <= 0.3 + 1e-9


def test_nothing_of_the_provider_goes_into_a_surrogate() -> None:
    """Records of others may be anything: what is learnt and asked for stays bit by bit, given the labels of targets."""
    of = bed(0)
    goals, mine = of.goals(of.targets(2)), attacker(of, 0.2)
    x, y = of.task.records.x.clone(), of.task.records.y.clone()
    others = ~mine.may_name(TRAINING)
    x[others], y[others] = 7.0, 0
    changed = replace(of, task=replace(of.task, records=Examples(x, y)))
    found = []
    for each in (of, changed):
        seen = Attacker(mine.pool, each.task.records[mine.pool], mine.reference)
        service = surrogate(each, seen, Retrain())
        found.append(service.victims[0].flat())
        found.append(transferred(Misclassification(budget=4, access="transfer"), each, goals, seen, Retrain()))
    assert torch.equal(found[0], found[2])
    assert found[1] == found[3]


def test_a_surrogate_learns_what_the_attacker_holds() -> None:
    of = bed(0)
    mine = attacker(of, 0.2)
    task = surrogate_task(of.task.without(Request((0, 1))), mine)
    assert len(task.records) == len(mine.owned) + len(mine.reference) == 160
    assert torch.equal(task.records.x[:60], of.task.records.x[mine.pool])
    assert torch.equal(task.records.y[60:], mine.reference.y)
    assert task.forgotten is None
    assert (task.build, task.training) == (of.task.build, of.task.training)
    seen = as_surrogate_counts(mine)
    assert torch.equal(task.records.x[seen.pool], seen.owned.x)
    copies = Examples(torch.ones(2, 10), torch.zeros(2, dtype=torch.long))
    [back] = as_provider_counts([AttackResult(Request((3, 0), copies), 1.5, (2.0, 1.5))], mine)
    assert back.request.indices == (int(mine.pool[3]), int(mine.pool[0]))
    assert back.request.examples is copies
    assert (back.objective, back.curve) == (1.5, (2.0, 1.5))


def test_what_does_not_make_a_surrogate_is_said() -> None:
    of = bed(0)
    mine = attacker(of, 0.2)
    check_surrogate(mine, BUDGET, CLASSES)
    with pytest.raises(UserError, match="none of these 160 is of class d"):
        check_surrogate(mine, BUDGET, (*CLASSES, "d"))
    with pytest.raises(UserError, match="may delete all of them"):
        check_surrogate(mine, 160, CLASSES)


def test_feedback_and_an_opened_service_are_what_transfer_is_about() -> None:
    of = bed(0)
    goals, mine = of.goals(of.targets(1)), attacker(of, 0.2)
    with pytest.raises(UserError, match="needs an opened service"):
        Misclassification(access="transfer", budget=3).craft(
            [closed(of, STEP, 5)[0]], goals, mine, generator(0, "attack")
        )
    for attack, feedback in ((Misclassification, "labels"), (Uncertainty, "labels"), (Uncertainty, "sequential")):
        with pytest.raises(ValueError, match=f"feedback={feedback} is a black-box setting"):
            attack(access="transfer", feedback=feedback)
    assert Uncertainty(access="transfer", norm_cap=0.5, functional=Confidence()).norm_cap == 0.5
