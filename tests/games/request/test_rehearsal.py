"""Trials are what the filter says of streams of the attacker's own records, and nothing of the provider's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attacks.crafting.criterion import LabelFlipped
from data.examples import Examples
from data.randomness import generator
from defenses.defense import Context
from defenses.filters.influence import Influence
from defenses.filters.membership_check import MembershipCheck
from games.request.rehearsal import Rehearsal, _runs
from tests.attacks.checks import bed, opened
from tests.testbed import TRAINING
from unlearning.first_order import FirstOrder
from unlearning.procedure import Request
from unlearning.retrain import Retrain

S1, POOL, NOBODY = Influence(score="S1"), torch.arange(0, TRAINING, 2), torch.empty(0, dtype=torch.long)
ASKED = Request((0, 4, 8, 10, 20))


def rehearsal(**options: object) -> Rehearsal:
    of = bed(0)
    given = {"defense": S1, "service": opened(of), "goals": of.goals(of.targets(2)), "attacker": of.attacker(POOL)}
    rest = {"criterion": LabelFlipped(), "kind": "uniform", "size": 30, "batches": 3, "seed": 5}
    return Rehearsal(**{**given, **rest, **options})  # type: ignore[arg-type]


def test_all_records_come_from_the_attackers_pool_and_batches_hold_the_poison() -> None:
    made, poison = rehearsal(), torch.tensor([2, 6])
    for context, expected in ((made.calibrated(), 0), (made.calibrated(poison), 2)):
        assert len(context.calibration) == 3
        for each in context.calibration:
            assert len(each.indices.unique()) == 30
            assert torch.isin(each.indices, POOL).all()
            assert int(torch.isin(poison, each.indices).sum()) >= expected
        assert torch.equal(context.trusted.x, bed(0).attacker().reference.x)  # not the provider's trusted examples
    streams = made._streams(ASKED, 3, poison, generator(0, "a"))
    assert [len(each.unique()) for each in streams] == [30, 30, 30]
    assert [each[: 5 // 3 + (j < 2)].tolist() for j, each in enumerate(streams)] == [[0, 10], [4, 20], [8]]
    together = torch.cat(streams)
    assert len(together.unique()) == 90
    assert torch.isin(together, POOL).all()
    assert not torch.isin(poison, together).any()


def test_a_trial_is_the_filters_own_verdict_and_what_comes_of_it() -> None:
    """Against the same by hand: scores of the stream under retraining without it, then what was accepted deleted."""
    of, made = bed(0), rehearsal()
    [trial] = made.trials([ASKED], [1])
    [stream] = made._streams(ASKED, 1, NOBODY, generator(5, "rehearsed stream", 0, 1))

    def without(batch: torch.Tensor):
        row = torch.zeros(1, TRAINING, dtype=torch.float64)
        row[0, batch] = 1
        return Retrain().forget(of.task, of.victim, row, of.seed)[0]

    context = made.calibrated()
    seen = Context(of.task, of.victim, without(stream), of.attacker().reference, context.calibration)
    verdict = S1.review(seen, stream)
    assert torch.allclose(trial.scores, verdict.scores[:5], atol=1e-9)
    assert torch.equal(trial.accepted, verdict.accepted[:5])
    assert trial.threshold == pytest.approx(verdict.threshold, abs=1e-9)
    goal, left = made.goals[1], without(stream[verdict.accepted])
    before, after = (each.probabilities(goal.x)[0] for each in (of.victim, left))
    assert trial.moved == pytest.approx(float(before[goal.labels[0]] - after[goal.labels[0]]), abs=1e-9)
    assert trial.attained == float(after.argmax() != goal.labels[0])


def test_draws_differ_and_repeat() -> None:
    made = rehearsal()
    first, again, other = (made.trials([ASKED], [0], draw=d)[0].scores for d in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nothing_asked_and_parts_have_trials_too() -> None:
    made = rehearsal()
    nothing, split = made.trials([Request(()), ASKED], [0, 1], parts=3)
    assert len(nothing.scores) == 0
    assert len(split.scores) == len(split.accepted) == 5


def test_runs_are_counted_by_the_service() -> None:
    """3 calibration batches, 2 streams, and what was accepted of each."""
    service = opened(bed(0))
    rehearsal(service=service).trials([ASKED, ASKED], [0, 1])
    assert service.meter.operator_calls == 3 + 2 + 2


def test_copies_are_what_the_filter_sees_and_count_where_the_server_computes_with_them() -> None:
    of = bed(0)
    stored = of.task.records[list(ASKED.indices)]  # type: ignore[index]
    sent = Request(ASKED.indices, Examples(stored.x + 0.2, stored.y))
    checked = rehearsal(defense=MembershipCheck(test="exact")).trials([ASKED, sent], [0, 0])
    assert [bool(each.accepted.all()) for each in checked] == [True, False]
    for procedure, counts in ((Retrain(), False), (FirstOrder(), True)):
        lenient = Influence(score="S8", rate=0.02)
        service = opened(of, procedure)
        plain, copied = rehearsal(defense=lenient, service=service).trials([ASKED, sent], [0, 0])
        assert bool(plain.accepted.all())
        assert bool(copied.accepted.all())
        assert not torch.allclose(plain.scores, copied.scores)
        assert (abs(plain.moved - copied.moved) > 1e-6) == counts
        own = rehearsal(defense=lenient, service=replace(service, record="own"))
        one, other = own.trials([ASKED, sent], [0, 0])
        assert torch.allclose(one.scores, other.scores)
        assert one.moved == pytest.approx(other.moved, abs=1e-9)


def test_what_brings_copies_or_nothing_comes_alone() -> None:
    some, nothing = torch.tensor([1]), NOBODY
    batches, copies = [some, some, some, nothing, some, some], [None, None, None, None, ASKED, None]
    assert [(r.start, r.stop) for r in _runs(batches, copies, 2)] == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
