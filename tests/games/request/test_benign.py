"""Benign requests of every kind: distinct eligible records, and what the kind promises."""

import pytest
import torch

from data.examples import Examples
from games.request.benign import draw_benign

G = torch.Generator().manual_seed(0)
Y = torch.arange(200) % 5
X = torch.randn(200, 2, 3, generator=G) + 4.0 * torch.nn.functional.one_hot(Y, 6).reshape(200, 2, 3)
RECORDS = Examples(X, Y)
ELIGIBLE = torch.arange(20, 180)


def drawn(kind, size=24, seed=0):
    return draw_benign(kind, RECORDS, ELIGIBLE, size, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["uniform", "clustered", "outlier", "per_class"])
def test_batches_are_distinct_eligible_records_and_come_from_the_generator(kind):
    for size in (1, 24, 160):
        batch = drawn(kind, size)
        assert len(batch) == len(batch.unique()) == size
        assert bool(((batch >= 20) & (batch < 180)).all())
    assert torch.equal(drawn(kind), drawn(kind))
    assert not torch.equal(drawn(kind), drawn(kind, seed=1))
    with pytest.raises(ValueError, match="cannot be drawn"):
        drawn(kind, 161)


def test_a_cluster_holds_the_nearest_of_its_centre():
    batch = drawn("clustered")
    x = X.flatten(1)
    inside = {
        int(centre) for centre in batch
        if set(ELIGIBLE[(x[ELIGIBLE] - x[centre]).norm(dim=1).argsort()[:24]].tolist()) == set(batch.tolist())
    }  # fmt: skip
    assert inside


def test_outliers_lie_far_from_the_mean_of_their_class():
    x = X.flatten(1).double()
    means = torch.stack([x[ELIGIBLE][Y[ELIGIBLE] == label].mean(0) for label in range(5)])
    far = ELIGIBLE[(x[ELIGIBLE] - means[Y[ELIGIBLE]]).norm(dim=1).argsort(descending=True)[:40]]
    assert set(drawn("outlier").tolist()) <= set(far.tolist())
    assert set(drawn("outlier", 40).tolist()) == set(far.tolist())


def test_one_class_is_used_up_before_another_begins():
    assert len(Y[drawn("per_class")].unique()) == 1
    counts = Y[drawn("per_class", 40)].bincount(minlength=5)
    assert sorted(counts.tolist()) == [0, 0, 0, 8, 32]
