"""Copies within the radius with gradients like their class's: the slope, the way, and what filters make of them."""

from __future__ import annotations

import torch

from attacks.adaptive.aligned_copies import AlignedCopies, class_means, dissimilarity
from attacks.adaptive.none import NotAdaptive
from attacks.crafting.copies import Around, Copies
from data.examples import Examples
from defenses.filters.influence import Influence
from models.gradients import per_example_gradients
from tests.attacks.adaptive.played import crafted, outcome
from tests.attacks.checks import bed

S6 = Influence(score="S6")


def test_the_slope_is_that_of_the_cosine() -> None:
    """Against central differences in float64 of 1 - cos with explicit gradients."""
    of = bed(0)
    records, some = of.task.records, of.task.records[torch.arange(4)]
    g = per_example_gradients(of.victim, records)
    means = class_means(of.victim, records)
    assert torch.allclose(means, torch.stack([g[records.y == k].mean(0) for k in range(3)]), atol=1e-12)

    def value(x: torch.Tensor) -> torch.Tensor:
        own = per_example_gradients(of.victim, Examples(x, some.y))
        return 1 - torch.nn.functional.cosine_similarity(own, means[some.y], dim=1)

    values, slopes = dissimilarity(of.victim, some, means)
    assert (values - value(some.x)).abs().max() < 1e-12
    for feature in range(some.x.shape[1]):
        step = torch.zeros_like(some.x)
        step[:, feature] = 1e-5
        central = (value(some.x + step) - value(some.x - step)) / 2e-5
        assert (slopes[:, feature] - central).abs().max() < 1e-7  # h^2 times a third derivative of a few hundred


def test_copies_stay_within_the_radius_and_their_labels_and_are_more_alike() -> None:
    of, strategy = bed(0), AlignedCopies(radius=0.3)
    goals, records = of.goals(of.targets(4)), of.task.records
    plain, found = (crafted(of, each, S6, goals) for each in (NotAdaptive(), strategy))
    means, moved = class_means(of.victim, records), 0
    for one, other in zip(plain, found, strict=True):
        assert one.request.indices == other.request.indices
        copies, stored = other.request.examples, records[torch.tensor(other.request.indices)]
        if copies is None:
            continue
        moved += 1
        around = Around.of(Copies(radius=0.3), stored.x, of.attacker())
        assert torch.equal(around.project(copies.x), copies.x)
        assert torch.equal(copies.y, stored.y)
        before, after = (dissimilarity(of.victim, each, means)[0] for each in (stored, copies))
        assert (after <= before).all()
        assert after.mean() < before.mean()
    assert moved > 0


def test_the_similarity_of_copies_tells_nothing() -> None:
    plain, aligned = outcome(NotAdaptive(), S6), outcome(AlignedCopies(), S6)
    print("plain", plain, "aligned", aligned)
    assert aligned.auroc < plain.auroc - 0.15
    assert aligned.filtered >= plain.filtered
    assert aligned.mixed == plain.mixed  # retraining deletes what is stored
    assert aligned.control < aligned.filtered
