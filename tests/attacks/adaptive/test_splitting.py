"""Three streams of a request, each with a third of it: what the filter still sees."""

from __future__ import annotations

from attacks.adaptive.none import NotAdaptive
from attacks.adaptive.splitting import Splitting
from defenses.filters.influence import Influence
from tests.attacks.adaptive.played import crafted, outcome
from tests.attacks.checks import bed

S1 = Influence(score="S1")


def test_the_request_itself_is_the_plain_attacks() -> None:
    of = bed(0)
    goals = of.goals(of.targets(3))
    assert crafted(of, Splitting(), S1, goals) == crafted(of, NotAdaptive(), S1, goals)


def test_every_part_stands_out_less() -> None:
    plain, split = outcome(NotAdaptive(), S1), outcome(Splitting(), S1)
    print("split", split)
    assert split.alone == plain.alone
    assert split.auroc < plain.auroc - 0.1
    assert split.filtered > plain.filtered + 0.2
    assert split.control < split.filtered
