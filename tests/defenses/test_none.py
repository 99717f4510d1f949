from __future__ import annotations

import torch

from defenses.defense import Context
from defenses.none import NoDefense
from tests.attacks.checks import bed


def test_everything_is_accepted() -> None:
    of, indices = bed(0), torch.tensor([5, 2, 9])
    verdict = NoDefense().review(Context(of.task, of.victim, of.victim, of.trusted), indices)
    assert verdict.accepted.tolist() == [True, True, True]
    assert torch.equal(verdict.scores, torch.zeros(3, dtype=torch.float64))
    assert verdict.threshold == float("inf")
    assert NoDefense.game == "any"
