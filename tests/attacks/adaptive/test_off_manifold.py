"""Which targets the strategy chooses; the choice itself is tested in tests/games/request/test_targets.py."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import pytest
import torch
from torch import Tensor

from attacks.adaptive.none import NotAdaptive
from attacks.adaptive.off_manifold import OffManifold
from attacks.crafting.functionals import LogitGap
from attacks.requester.one_shot_influence import OneShotInfluence
from data.randomness import generator
from defenses.filters.influence import Influence
from games.request.targets import nearest_distance
from metrics.clustered import clustered_auroc
from metrics.intervals import mean_interval
from tests.attacks.adaptive.played import crafted
from tests.attacks.checks import bed
from tests.attacks.checks import crafted as asked
from tests.defenses.filters.batches import Attacked, benign
from tests.defenses.filters.test_set_level import FILTER, seen
from tests.testbed import TEST, TRAINING


def test_it_is_a_choice_of_targets_alone() -> None:
    of = bed(0)
    goals = of.goals(of.targets(2))
    assert OffManifold().far == 0.25
    assert NotAdaptive().far is None
    assert crafted(of, OffManifold(), Influence(), goals) == crafted(of, NotAdaptive(), Influence(), goals)
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="far"):
            OffManifold(far=wrong)


@dataclass(frozen=True)
class Seen:
    """What trusted examples see of attacks on some targets: distances, Zmax of batches, and their scores by S4."""

    distances: Tensor
    most: Tensor
    scores: Tensor
    truth: Tensor
    flipped: Tensor


def seen_of(seed: int, far: bool, count: int = 20) -> Seen:
    """15 one-shot requests among 45 random ones, for `count` targets of low margin, drawn of all or of the farthest."""
    of, rng = bed(seed), generator(seed, "off manifold")
    every = of.targets(TEST)
    distance = nearest_distance(of.test.x[every], of.trusted.x)
    if far:
        every = every[distance.topk(ceil(OffManifold().far * len(every))).indices]
        distance = nearest_distance(of.test.x[every], of.trusted.x)
    drawn = torch.randperm(len(every), generator=rng)[:count]
    goals, batches = of.goals(every[drawn], 1), []
    for each in asked(OneShotInfluence(budget=15, functional=LogitGap()), of, goals):
        malicious, others = torch.tensor(each.request.indices), torch.randperm(TRAINING, generator=rng)
        batches.append(torch.cat([malicious, others[~torch.isin(others, malicious)][:45]]))
    context = seen(seed)
    most = torch.stack([FILTER.standardised(context, batch).abs().max() for batch in batches])
    scores = torch.cat([Influence(score="S4").scores(context, batch) for batch in batches])
    models = Attacked(of, goals, [], [], of.victim.copies(1), [], torch.empty(0))
    truth = (torch.arange(60) < 15).repeat(count)
    return Seen(distance[drawn], most, scores, truth, models.flipped(batches))


@pytest.mark.claims
def test_what_trusted_examples_see_of_targets_that_are_far_from_them() -> None:
    """S4's AUROC, Zmax and the AUROC of batches of six draws, 20 targets each, far from trusted examples or not."""
    found = {}
    good = torch.cat([_most(seed, 100) for seed in range(6)])
    for far in (False, True):
        runs = [seen_of(seed, far) for seed in range(6)]
        stream = torch.arange(120).repeat_interleave(60)
        s4 = clustered_auroc(torch.cat([r.scores for r in runs]), torch.cat([r.truth for r in runs]), stream)
        most = torch.cat([r.most for r in runs])
        batches = torch.cat([most, good])
        z = clustered_auroc(batches, torch.arange(len(batches)) < len(most), torch.arange(len(batches)))
        found[far], rates = (runs, s4, z), {"S4": s4, "batches": z}
        distance, mean = mean_interval(torch.cat([r.distances for r in runs])), mean_interval(most)
        flipped = torch.cat([r.flipped for r in runs]).double().mean()
        told = {name: f"{e.value:.3f} [{e.settings['low']:.3f}, {e.settings['high']:.3f}]" for name, e in rates.items()}
        print(f"far={far}: distance {distance}, Zmax {mean}, AUROC {told}, flipped {flipped:.2f}")
    pairs = zip(found[True][0], found[False][0], strict=True)
    less = mean_interval(torch.tensor([float(a.most.mean() - b.most.mean()) for a, b in pairs], dtype=torch.float64))
    print("Zmax of far targets less that of others, over draws", less)
    far, anywhere = found[True], found[False]
    assert torch.cat([r.distances for r in far[0]]).mean() > torch.cat([r.distances for r in anywhere[0]]).mean() + 0.4
    assert abs(far[1].value - anywhere[1].value) < 0.05  # the strategy does not do what it is for
    assert abs(far[2].value - anywhere[2].value) < 0.02
    assert less.low < 0 < less.high


def _most(seed: int, count: int) -> Tensor:
    context = seen(seed)
    return torch.stack([FILTER.standardised(context, batch).abs().max() for batch in benign(seed, "live", count)])
