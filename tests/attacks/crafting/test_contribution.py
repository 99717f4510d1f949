"""What attackers hand in before training is theirs, finite, and asked for by them alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks.crafting.attack import Attacker
from attacks.crafting.contribution import Contribution, asked_back, contributed, with_contribution
from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from tests.attacks.requester.test_camouflage import scene


def test_what_is_contributed_is_checked() -> None:
    data, task, _, goals, attacker = scene(0)

    def given(change) -> Any:
        class Strange:
            name = "strange"

            def contribute(self, task, data, goals, attacker, rng):
                return change(Contribution(task.records, [attacker.pool[:2]] * len(goals)))

        return contributed(Strange(), task, data, goals[:1], small, generator(0, "a"))

    small = Attacker(attacker.pool[:50], attacker.owned[slice(0, 50)], attacker.reference)
    records = task.records
    for change, sentence in (
        (lambda c: None, "must give a Contribution"),
        (lambda c: replace(c, records=records[slice(0, 9)]), "as many records as there were"),
        (
            lambda c: replace(c, records=Examples(records.x, 1 - records.y.clamp_max(1))),
            "which is not in attacker.pool",
        ),
        (lambda c: replace(c, requested=[]), "for each of 1 goals"),
        (lambda c: replace(c, requested=[torch.tensor([60])]), "will ask for a record that is not in attacker.pool"),
    ):
        with pytest.raises(UserError, match=sentence):
            given(change)


def test_goals_are_told_what_was_contributed_and_what_is_judged() -> None:
    _, task, _, goals, attacker = scene(0)
    marked = [goal.x + 1 for goal in goals]
    asked = [attacker.pool[i : i + 2] for i in range(len(goals))]
    told = with_contribution(goals, Contribution(task.records, asked, marked))
    for i, (goal, before) in enumerate(zip(told, goals, strict=True)):
        assert torch.equal(goal.x, before.x + 1)
        assert torch.equal(goal.labels, before.labels)
        assert asked_back(goal).request.indices == (i, i + 1)
    plain = with_contribution(goals, Contribution(task.records, asked))
    assert all(torch.equal(goal.x, before.x) for goal, before in zip(plain, goals, strict=True))
