"""Which targets the strategy chooses; the choice itself is tested in tests/games/request/test_targets.py."""

from __future__ import annotations

import pytest

from attacks.adaptive.none import NotAdaptive
from attacks.adaptive.off_manifold import OffManifold
from defenses.filters.influence import Influence
from tests.attacks.adaptive.played import crafted
from tests.attacks.checks import bed


def test_it_is_a_choice_of_targets_alone() -> None:
    of = bed(0)
    goals = of.goals(of.targets(2))
    assert OffManifold().far == 0.25
    assert NotAdaptive().far is None
    assert crafted(of, OffManifold(), Influence(), goals) == crafted(of, NotAdaptive(), Influence(), goals)
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="far"):
            OffManifold(far=wrong)
