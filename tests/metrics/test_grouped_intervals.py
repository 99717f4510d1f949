"""Intervals over seeds and what is drawn within them: coverage by simulation, bounds, and known special cases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.intervals import crossed_interval, grouped_interval, mean_interval, rate_interval, share_interval

REPETITIONS = 500


def covered(draw, truth, **options):
    """The share of simulated intervals that hold the truth."""
    generator = torch.Generator().manual_seed(0)
    found = [grouped_interval(draw(generator), **options) for _ in range(REPETITIONS)]
    return sum(each.low <= truth <= each.high for each in found) / REPETITIONS


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("of_seeds", [0.05, 0.3])
def test_intervals_of_means_cover_95_percent_with_variance_of_seeds_and_of_targets(seeds, of_seeds):
    def draw(generator):
        means = 0.3 + of_seeds * torch.randn(seeds, 1, generator=generator, dtype=torch.float64)
        return list(means + 0.2 * torch.randn(seeds, 12, generator=generator, dtype=torch.float64))

    assert 0.92 <= covered(draw, 0.3) <= 0.98


@pytest.mark.parametrize(("seeds", "targets", "of_seeds"), [(3, 24, 1.0), (5, 12, 1.0), (5, 24, 0.5), (8, 12, 1.0)])
def test_intervals_of_shares_cover_95_percent_where_seeds_differ(seeds, targets, of_seeds):
    many = torch.randn(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = float((0.8 + of_seeds * many).sigmoid().mean())

    def draw(generator):
        p = (0.8 + of_seeds * torch.randn(seeds, 1, generator=generator, dtype=torch.float64)).sigmoid()
        return list((torch.rand(seeds, targets, generator=generator, dtype=torch.float64) < p).double())

    assert 0.92 <= covered(draw, truth, kind="share") <= 0.98


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_shares_near_the_end_are_never_covered_too_rarely(seeds):
    def draw(generator):
        return list((torch.rand(seeds, 12, generator=generator, dtype=torch.float64) < 0.97).double())

    assert covered(draw, 0.97, kind="share") >= 0.92


def test_pooling_targets_as_if_independent_covers_far_too_rarely():
    def naive(generator):
        means = 0.3 + 0.3 * torch.randn(3, 1, generator=generator, dtype=torch.float64)
        return [(means + 0.2 * torch.randn(3, 12, generator=generator, dtype=torch.float64)).flatten()]

    assert covered(naive, 0.3) < 0.6


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=6),
    st.sampled_from(["plain", "share"]),
)
@settings(max_examples=200, deadline=None)
def test_intervals_of_bounded_values_lie_within_their_bounds(groups, kind):
    found = grouped_interval([torch.tensor(group, dtype=torch.float64) for group in groups], kind, (0.0, 1.0))
    assert 0 <= found.mean <= 1 + 1e-12
    if not math.isnan(found.low):
        assert 0 <= found.low <= found.mean + 1e-9
        assert found.mean - 1e-9 <= found.high <= 1


def test_one_seed_gives_the_known_intervals():
    yes_and_no = torch.tensor([1.0] * 9 + [0.0] * 3)
    exact, found = rate_interval(9, 12), grouped_interval([yes_and_no], "share")
    assert (found.low, found.high, found.n) == (exact.low, exact.high, 12)
    assert found.over == "12 targets of one seed"
    values = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert grouped_interval([values]).low == mean_interval(values).low


def test_with_several_seeds_their_means_are_what_varies():
    groups = [torch.randn(5, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3)]
    found, means = grouped_interval(groups), torch.stack([group.mean() for group in groups])
    assert (found.mean, found.low, found.n) == (pytest.approx(float(means.mean())), mean_interval(means).low, 15)
    assert found.over == "3 seeds"


def test_shares_of_exactly_0_or_1_have_an_interval_that_more_seeds_narrow():
    ends = [grouped_interval([torch.ones(12)] * seeds, "share") for seeds in (2, 3, 5, 8)]
    assert [each.high for each in ends] == [1.0] * 4
    lows = [each.low for each in ends]
    assert lows == sorted(lows)
    assert 0 < lows[0] < lows[-1] < 1


def test_without_a_spread_there_are_no_bounds():
    for kind in ("plain", "share"):
        assert math.isnan(grouped_interval([torch.tensor([0.4])], kind).low)
    assert math.isnan(share_interval(0.5, 0.0, 0, 10).low)


def test_what_is_no_share_or_no_value_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        grouped_interval([torch.empty(0)])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        grouped_interval([torch.tensor([1.2])], "share")
    with pytest.raises(ValueError, match="kind"):
        grouped_interval([torch.tensor([1.0])], "log")


@pytest.mark.parametrize("of_seeds", [0.0, 0.08, 0.2])
def test_intervals_over_requests_and_fresh_seeds_cover_where_those_over_requests_do_not(of_seeds):
    """12 requests, each judged with the same 3 fresh seeds."""
    generator, hits, naive = torch.Generator().manual_seed(0), 0, 0
    for _ in range(REPETITIONS):
        rows = 0.1 * torch.randn(12, 1, generator=generator, dtype=torch.float64)
        columns = of_seeds * torch.randn(1, 3, generator=generator, dtype=torch.float64)
        table = 0.2 + rows + columns + 0.15 * torch.randn(12, 3, generator=generator, dtype=torch.float64)
        found, over_requests = crossed_interval(table), mean_interval(table.mean(1))
        hits += found.low <= 0.2 <= found.high
        naive += over_requests.low <= 0.2 <= over_requests.high
    assert hits >= 0.92 * REPETITIONS
    assert of_seeds == 0 or naive < 0.9 * REPETITIONS


def test_a_single_row_or_column_and_equal_values_have_no_bounds():
    for table in (torch.rand(1, 3), torch.rand(4, 1), torch.full((4, 3), 0.5)):
        assert math.isnan(crossed_interval(table.double()).low)
    kept, exact = crossed_interval(torch.ones(12, 3), "share"), rate_interval(12, 12)
    assert (kept.low, kept.high) == (exact.low, exact.high)  # every label kept is no certainty about other targets
    found = crossed_interval(torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]), "share")
    assert 0 < found.low < found.mean < found.high <= 1


def test_equal_shares_that_are_no_yes_or_no_have_no_bounds_and_rounding_makes_none():
    for values in ([0.978] * 4, [0.978, 0.978 + 1e-12]):
        assert math.isnan(grouped_interval([torch.tensor(values, dtype=torch.float64)], "share").low)
    assert math.isnan(grouped_interval([torch.tensor([0.1 + 0.2, 0.3], dtype=torch.float64)]).low)
