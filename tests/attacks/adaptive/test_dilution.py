"""Cover of the right size and origin, and what it does against S1."""

from __future__ import annotations

import pytest
import torch

from attacks.adaptive.dilution import Dilution, _covered
from attacks.adaptive.none import NotAdaptive
from attacks.crafting.attack import AttackResult
from data.examples import Examples
from data.randomness import generator
from defenses.filters.influence import Influence
from tests.attacks.adaptive.played import BUDGET, crafted, outcome
from tests.attacks.checks import bed
from unlearning.procedure import Request

S1 = Influence(score="S1")


@pytest.mark.parametrize(("share", "harmful"), [(0.5, 7), (0.2, 12), (0.99, 1)])
def test_a_share_of_the_budget_is_cover(share: float, harmful: int) -> None:
    """15 records, of which round(15 share) are cover, and at least one is not: Python rounds 7.5 to 8."""
    of = bed(0)
    goals = of.goals(of.targets(3))
    plain, mixed = (crafted(of, each, S1, goals) for each in (NotAdaptive(), Dilution(share=share)))
    for one, other in zip(plain, mixed, strict=True):
        assert len(set(other.request.indices)) == BUDGET
        assert other.request.indices[:harmful] == one.request.indices[:harmful]
        assert set(other.request.indices[harmful:]) != set(one.request.indices[harmful:])


def test_cover_is_sent_as_it_is_stored_and_nothing_needs_none() -> None:
    attacker = bed(0).attacker(torch.arange(10, 40))
    assert _covered(AttackResult(Request(()), 0.0), attacker, 3, generator(0, "a")).request.indices == ()
    copies = Examples(attacker.owned.x[:2] + 1, attacker.owned.y[:2])
    request = _covered(AttackResult(Request((10, 11), copies), 0.0), attacker, 3, generator(0, "a")).request
    assert request.examples is not None
    assert torch.equal(request.examples.x[:2], copies.x)
    assert torch.equal(request.examples.x[2:], bed(0).task.records.x[list(request.indices[2:])])
    assert set(request.indices[2:]) <= set(range(12, 40))


def test_it_stands_out_less_and_does_less() -> None:
    plain, diluted = outcome(NotAdaptive(), S1), outcome(Dilution(), S1)
    print("diluted", diluted)
    assert diluted.auroc < plain.auroc - 0.15
    assert diluted.mixed < plain.mixed  # half of the budget is spent on cover
    assert diluted.filtered >= plain.filtered
    assert diluted.control <= diluted.filtered
