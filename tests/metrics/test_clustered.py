"""Rates and AUROC over streams: special cases without clusters, coverage with them."""

import pytest
import torch

from metrics.clustered import clustered_auroc, clustered_rate, clustered_tpr
from metrics.detection import auroc
from metrics.intervals import rate_interval


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_records_for_themselves_give_the_known_intervals():
    scores, malicious = normal(0, 60), torch.arange(60) < 25
    scores[malicious] += 1
    own = clustered_auroc(scores, malicious, torch.arange(60))
    assert own.value == auroc(scores, malicious).value
    assert own.settings["standard_error"] == pytest.approx(auroc(scores, malicious).settings["standard_error"])
    hits = scores > 0.5
    exact, found = rate_interval(int(hits.sum()), 60), clustered_rate(hits, torch.arange(60))
    assert (found.low, found.high) == (exact.low, exact.high)


def test_the_names_of_clusters_and_the_order_of_records_do_not_matter():
    scores, malicious, clusters = normal(1, 80), torch.arange(80) % 4 == 0, torch.arange(80) // 20
    order = torch.randperm(80, generator=torch.Generator().manual_seed(2))
    one = clustered_auroc(scores, malicious, clusters)
    other = clustered_auroc(scores[order], malicious[order], 7 - 3 * clusters[order])
    assert one.settings["low"] == pytest.approx(other.settings["low"])


def test_intervals_over_streams_cover_where_pooled_ones_do_not():
    generator, clusters = torch.Generator().manual_seed(0), torch.arange(12).repeat_interleave(20)
    malicious, hits = torch.arange(240) % 4 == 0, {"auroc": 0, "DeLong": 0, "rate": 0}
    truth = float(torch.special.ndtr(torch.tensor(1.0 / 2**0.5 / (1 + 0.5**2 / 2) ** 0.5)))  # a shift of N(1, 0.5^2)
    for _ in range(300):
        shift = 1 + 0.5 * torch.randn(12, generator=generator, dtype=torch.float64)
        scores = torch.randn(240, generator=generator, dtype=torch.float64) + shift[clusters] * malicious
        found = clustered_auroc(scores, malicious, clusters)
        hits["auroc"] += found.settings["low"] <= truth <= found.settings["high"]
        error = auroc(scores, malicious).settings["standard_error"]
        hits["DeLong"] += abs(found.value - truth) <= 1.96 * error
        p = (0.5 + torch.randn(12, generator=generator, dtype=torch.float64)).sigmoid()
        yes = torch.rand(240, generator=generator, dtype=torch.float64) < p[clusters]
        rate = clustered_rate(yes, clusters)
        hits["rate"] += rate.low <= 0.6020 <= rate.high  # the mean of a logistic-normal(0.5, 1), by quadrature
    assert 0.92 * 300 <= hits["auroc"] <= 0.98 * 300 + 3
    assert 0.92 * 300 <= hits["rate"] <= 0.98 * 300 + 3
    assert hits["DeLong"] < hits["auroc"]


def test_intervals_stay_between_0_and_1_also_at_perfect_separation():
    scores, malicious = torch.arange(40).double(), torch.arange(40) >= 30
    for clusters in (torch.arange(40) % 4, torch.arange(40) % 2):
        found = clustered_auroc(scores, malicious, clusters).settings
        assert 0 < found["low"] < found["high"] == 1.0
        caught = clustered_tpr(scores, malicious, clusters, 0.5)
        assert (caught.value, caught.settings["high"]) == (1.0, 1.0)
        assert 0 < caught.settings["low"] < 1
        few = clustered_tpr(scores, malicious, clusters, 0.05).settings  # one benign record sets the threshold
        assert few["low"] != few["low"]


def test_one_cluster_has_no_interval_and_wrong_shapes_are_refused():
    found = clustered_auroc(normal(0, 20), torch.arange(20) < 5, torch.zeros(20, dtype=torch.long))
    assert found.settings["low"] != found.settings["low"]
    with pytest.raises(ValueError, match="same shape"):
        clustered_rate(torch.ones(3, dtype=torch.bool), torch.arange(4))
