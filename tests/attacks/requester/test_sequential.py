"""What the attack promises, on the Gaussian testbed: 5 stages of 6 requests, while others delete 10 records a stage."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from attacks.crafting.functionals import margins
from attacks.crafting.policies import scheduled
from attacks.crafting.stages import Course, carried_out, of_others
from attacks.crafting.white_box import WhiteBoxObjective
from attacks.requester.random import Random
from attacks.requester.sequential import Sequential
from data.errors import UserError
from data.randomness import generator
from models.solver import Solver
from tests.attacks.checks import bed, closed, labels, on_goals, opened, unlearned
from tests.testbed import Testbed
from unlearning.fine_tune import FineTune
from unlearning.first_order import FirstOrder
from unlearning.procedure import Procedure, Request
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder

COUNT, SEEDS, STAGES, BENIGN = 8, range(3), 5, 10
NEWTON = SecondOrder(solver=Solver(method="exact", damping=0.0))
ONLY_MARGINS = {"budget": 30, "stealth": 0.0, "kappa": 50.0, "access": "white_box"}  # a hinge that never saturates


def targets(of: Testbed, count: int) -> Tensor:
    """Correct test points with a margin between the 40% and the 80% quantile."""
    top = of.victim.logits(of.test.x).topk(2).values
    margin = top[:, 0] - top[:, 1]
    good = of.victim.logits(of.test.x).argmax(-1) == of.test.y
    good &= (margin > margin.quantile(0.4)) & (margin < margin.quantile(0.8))
    good[-100:] = False  # these are the attacker's reference points
    return good.nonzero()[:count, 0]


def courses(attack: Sequential, of: Testbed, procedure: Procedure, count: int = COUNT) -> list[Course]:
    """Every attack meets the same requests of others."""
    return attack.courses(opened(of, procedure), of.goals(targets(of, count)), of.attacker(), generator(of.seed, "run"))


def as_planned(of: Testbed, procedure: Procedure, named: list[list[Tensor]]) -> list[Course]:
    """The same stages, with what an attacker names written down ahead."""
    goals = of.goals(targets(of, len(named)))
    white_box = WhiteBoxObjective(opened(of, procedure), goals, of.attacker().reference, generator(0, "any"), 1)
    rng = generator(of.seed, "run")
    others = [of_others(torch.arange(300), STAGES, BENIGN, rng) for _ in goals]
    return carried_out(white_box, Sequential(**ONLY_MARGINS)._objective, others, scheduled(named))


def last(found: list[Course]) -> Tensor:
    """The margin of each target after the last stage."""
    return torch.stack([each.margins[-1, 0] for each in found])


@cache
def margins_by_attack(procedure: Procedure) -> dict[str, Tensor]:
    """Margins of the 24 targets at first, and after the last stage of every attack and control."""
    found: dict[str, list[Tensor]] = {}
    nothing = torch.empty(0, dtype=torch.long)
    for seed in SEEDS:
        of = bed(seed)
        open_loop = courses(Sequential(solver="open_loop", **ONLY_MARGINS), of, procedure)
        closed_loop = courses(Sequential(solver="closed_loop", **ONLY_MARGINS), of, procedure)
        static = [[torch.tensor(each.records), *[nothing] * (STAGES - 1)] for each in open_loop]
        rows = {
            "before": torch.stack([each.margins[0, 0] for each in open_loop]),
            "static": last(as_planned(of, procedure, static)),
            "open": last(open_loop),
            "closed": last(closed_loop),
            "others alone": last(as_planned(of, procedure, [[nothing] * STAGES] * COUNT)),
        }
        for name, values in rows.items():
            found.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in found.items()}


@pytest.mark.parametrize("procedure", [Retrain(), NEWTON], ids=["retrain", "second_order"])
def test_the_closed_loop_beats_the_list_that_was_split_for_every_target(procedure: Procedure) -> None:
    found = margins_by_attack(procedure)
    for name, values in found.items():
        print(name, "margin", float(values.mean()), "ASR", float((values < 0).double().mean()))
    gain = found["open"] - found["closed"]
    print("gain", float(gain.mean()), "least", float(gain.min()))
    assert bool((gain >= 0).all())
    assert float(gain.mean()) >= 0.5
    assert float((found["closed"] < 0).double().mean()) > 0.8
    assert int((found["others alone"] < 0).sum()) == 0


def test_an_exact_procedure_gives_one_model_whatever_the_order_of_requests() -> None:
    """Nobody else asks: the union at once, in its stages, and in stages of another order."""
    of = bed(0)
    [course] = courses(Sequential(benign=0, **ONLY_MARGINS), of, Retrain(), 1)
    whole = opened(of).forget(Request(course.records)).victims[0].flat()
    shuffled = torch.tensor(course.records)[torch.randperm(30, generator=generator(0, "order"))]
    for stages in (course.named, [tuple(part.tolist()) for part in shuffled.split(6)]):
        service = opened(of)
        for stage in stages:
            service = service.forget(Request(stage))
        distance = float((service.victims[0].flat() - whole).abs().max())
        print("largest difference", distance)
        assert distance < 1e-8


@pytest.mark.parametrize("procedure", [Retrain(), NEWTON, FirstOrder(rate=5.0)], ids=["exact", "newton", "gradient"])
def test_a_course_is_what_a_provider_makes_of_the_requests(procedure: Procedure) -> None:
    """One request after the other on the service; a record that is gone is not asked for again."""
    of = bed(1)
    goals = of.goals(targets(of, 2))
    for goal, course in zip(goals, courses(Sequential(**ONLY_MARGINS), of, procedure, 2), strict=True):
        service, gone, both = opened(of, procedure), set(), 0
        assert course.others.unique().numel() == STAGES * BENIGN
        for stage, named in enumerate(course.named):
            assert not gone & set(named)
            theirs = [i for i in course.others[stage].tolist() if i not in gone and i not in named]
            both += BENIGN - len(theirs)
            service = service.forget(Request((*named, *theirs)))
            gone |= {*named, *theirs}
            margin = margins(service.victims[0].logits(goal.x), goal.labels)
            torch.testing.assert_close(course.margins[stage + 1], margin, rtol=0, atol=1e-7)
            p = service.victims[0].probabilities(of.attacker().reference.x)
            right = (p.argmax(1) == of.attacker().reference.y).double().mean()
            assert float(course.accuracy[stage + 1]) == pytest.approx(float(right))
        print("asked for by both", both)


def test_the_trigger_is_deferred_to_the_last_stage() -> None:
    """Of the runs that flip their target, at least 90% keep it until the last stage; without the penalty few do."""
    waited: dict[float, list[bool]] = {}
    for early, seeds in ((0.0, SEEDS[:1]), (20.0, SEEDS)):
        attack = Sequential(budget=30, stealth=0.0, early=early, access="white_box")
        for seed in seeds:
            found = courses(attack, bed(seed), Retrain(), 6)
            flipped = [each for each in found if float(each.margins[-1, 0]) < 0]
            waited.setdefault(early, []).extend(bool((each.margins[:-1, 0] > 0).all()) for each in flipped)
        print("early", early, "waited", sum(waited[early]), "of", len(waited[early]), "that flip, of", 6 * len(seeds))
    assert len(waited[20.0]) >= 12
    assert sum(waited[20.0]) >= 0.9 * len(waited[20.0])
    assert sum(waited[0.0]) < 0.5 * len(waited[0.0])


def cost_of(course: Course, attack: Sequential) -> float:
    """What the attack minimises, on the course that was taken."""
    waiting = (attack.kappa - course.margins[1:-1]).clamp_min(0).sum()
    return float(course.losses[-1] + attack.early * waiting)


def test_planning_pays_where_the_path_matters() -> None:
    """First order, with a deferred trigger: plans count what others may do, which the greedy loop does not."""
    found = {}
    settings = {"budget": 12, "stages": 3, "stealth": 0.0, "early": 20.0, "scenarios": 2, "steps": 2}
    for solver in ("closed_loop", "adjoint", "mpc"):
        attack = Sequential(solver=solver, access="white_box", **settings)
        found[solver] = torch.tensor(
            [
                cost_of(each, attack)
                for seed in SEEDS[:2]
                for each in courses(attack, bed(seed), FirstOrder(rate=8.0), 2)
            ]
        )
    print({name: (float(values.mean()), values.tolist()) for name, values in found.items()})
    assert float(found["adjoint"].mean()) < float(found["closed_loop"].mean())
    assert float(found["mpc"].mean()) < float(found["adjoint"].mean())


def test_a_game_judges_the_union_in_its_order() -> None:
    of = bed(0)
    goals = of.goals(targets(of, 2))
    attack = Sequential(budget=11, per_stage=4, stages=4, access="white_box", kappa=50.0)
    results = attack.craft([opened(of)], goals, of.attacker(), generator(0, "attack"))
    expected = attack.courses(opened(of), goals, of.attacker(), generator(0, "attack"))
    for result, course in zip(results, expected, strict=True):
        assert result.request.indices == course.records
        assert [len(stage) for stage in course.named] == [4, 4, 3, 0]
        assert len(result.curve) == 5
        assert result.curve[-1] == result.objective


def test_targets_get_the_label_that_is_wanted() -> None:
    of = bed(0)
    goals = of.goals(targets(of, 6))
    second = torch.cat([of.victim.logits(goal.x).topk(2).indices[:, 1] for goal in goals])
    toward = int(second.mode().values)
    mine = [goal for goal, other in zip(goals, second.tolist(), strict=True) if other == toward]
    attack = Sequential(budget=30, toward=toward, access="white_box", benign=0)
    found = attack.craft([opened(of)], mine, of.attacker(), generator(0, "attack"))
    got = on_goals(unlearned(of, found), mine).argmax(1) == toward
    print("got the label", got.tolist())
    assert float(got.double().mean()) >= 0.8


def test_a_black_box_searches_anew_at_every_stage() -> None:
    """By trials on the service as it is; against random requests of the same size."""
    of, pool = bed(0), torch.randperm(300, generator=generator(0, "pool"))[:100]
    goals = of.goals(targets(of, 2))
    attack = Sequential(budget=15, stages=3, benign=5, access="black_box", queries=369, kappa=50.0, stealth=0.0)
    services = [closed(of, NEWTON, 369) for _ in goals]
    found = attack.craft([each for each, _ in services], goals, of.attacker(pool), generator(0, "attack"))
    drawn = Random(budget=15).craft([closed(of, NEWTON, 1)[0]] * 12, goals * 6, of.attacker(pool), generator(0, "a"))
    own = margins(on_goals(unlearned(of, found), goals).log(), labels(goals))
    random = margins(on_goals(unlearned(of, drawn), goals * 6).log(), labels(goals * 6)).reshape(6, 2).mean(0)
    print("black box", own.tolist(), "random", random.tolist())
    for result, (_, meter), margin, control in zip(found, services, own, random, strict=True):
        assert len(result.request) == len(set(result.request.indices)) == 15
        assert len(result.curve) == 4
        assert meter.queries <= 369
        assert float(margin) < float(control) - 0.3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"access": "black_box", "solver": "mpc"}, "needs attack.access=white_box"),
        ({"access": "black_box", "norm_cap": 0.5}, "use it with attack.access=white_box"),
    ],
)
def test_what_does_not_go_together_is_said(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Sequential(**settings)


def test_what_cannot_be_played_is_said_before_anything_is_deleted() -> None:
    of = bed(0)
    goals, attacker = of.goals(targets(of, 1)), of.attacker()
    service = opened(of, NEWTON)
    for attack, sentence in (
        (Sequential(solver="adjoint", access="white_box"), "SecondOrder does not; use attack.solver=closed_loop"),
        (Sequential(budget=30, benign=60, access="white_box"), "are 330 records, and there are 300 training records"),
    ):
        with pytest.raises(UserError, match=sentence):
            attack.craft([service], goals, attacker, generator(0, "a"))
    assert service.meter.operator_calls == 0
    black, meter = closed(of, Retrain(), 9)
    with pytest.raises(UserError, match="leaves no trial"):
        Sequential(access="black_box", queries=9).craft([black], goals, attacker, generator(0, "a"))
    assert meter.queries == 0
    with pytest.raises(UserError, match="closed_loop or open_loop"):
        Sequential(solver="mpc", access="white_box").courses(opened(of, FineTune()), goals, attacker, generator(0, "a"))
