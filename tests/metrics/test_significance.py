"""The tests behind the claims: against closed forms and brute force, and their error rates where nothing is true."""

from __future__ import annotations

import itertools

import pytest
import scipy.stats
import torch

from metrics import significance
from metrics.significance import Evidence, holm, paired_bootstrap, sign_test
from tests.experiments.paper_table.synthetic import clustered, draws


def test_numbers_that_are_all_zero_are_no_yes_or_no():
    """Of eight errors of exactly 0, a margin of 1e-9 is as far as eight fair coins say; of eight times no it is not."""
    zeros = [[0.0]] * 8
    of_errors = paired_bootstrap(zeros, (1e-9,), draws("zeros"), shares=False)
    of_shares = paired_bootstrap(zeros, (1e-9,), draws("zeros"), shares=True)
    assert of_errors.below[1e-9] == pytest.approx(0.5**8)
    assert of_shares.below[1e-9] > 0.99


def test_bootstrap_of_one_seed_has_the_spread_of_the_mean() -> None:
    """Resampled means of n values have the variance (n - 1)/n s^2 / n, so that bounds lie near 1.96 of its roots."""
    values = clustered(1, 40, 0.0, draws("one seed"))
    found = paired_bootstrap(values.tolist(), (0.0,), draws("bootstrap"))
    spread = float(values.std(correction=0)) / 40**0.5
    assert found.effect == pytest.approx(float(values.mean()), abs=1e-12)
    assert (found.high - found.low) / 2 >= 1.96 * spread  # at least: the interval is the wider of two
    student = scipy.stats.ttest_1samp(values[0].numpy(), 0.0).confidence_interval(0.95)
    assert found.low == pytest.approx(min(found.low, student.low))
    assert (found.low, found.high) == pytest.approx((student.low, student.high), abs=0.05)
    assert found.note == "one seed: only targets vary"
    assert (found.seeds, found.n) == (1, 40)


def test_resampling_is_hierarchical() -> None:
    """The variance of resampled means is that of seeds drawn anew, and of pairs drawn anew within them.

    With m_s, v_s the mean and the variance (over n) of seed s of S, and n pairs in each:
    Var = (variance over n of the m_s)/S + (mean of v_s)/(S n).
    """
    values = clustered(4, 6, 0.5, draws("hierarchy"))
    drawn = significance._resampled(list(values), draws("resampled"))
    expected = values.mean(1).var(correction=0) / 4 + values.var(1, correction=0).mean() / 24
    assert len(drawn) == 10_000
    assert float(drawn.mean()) == pytest.approx(float(values.mean()), abs=4 * float(expected / 10_000) ** 0.5)
    # the variance of a variance of 10,000 about normal draws is 2/10,000 of its square; four standard errors
    assert float(drawn.var()) == pytest.approx(float(expected), rel=4 * (2 / 10_000) ** 0.5 * 1.5)


def test_seeds_of_unequal_size_count_alike_and_only_their_own_pairs() -> None:
    found = paired_bootstrap([[1.0], [3.0, 5.0, 4.0]], (0.0,), draws("unequal"))
    assert found.effect == pytest.approx((1 + 4) / 2)
    assert (found.seeds, found.n) == (2, 4)
    drawn = significance._resampled(
        [torch.tensor([1.0]).double(), torch.tensor([3.0, 5.0, 4.0]).double()], draws("unequal")
    )
    assert float(drawn.min()) == 1.0
    assert float(drawn.max()) <= 5.0
    third = torch.tensor([3.0, 5.0, 4.0], dtype=torch.float64)
    assert {round(float(x), 9) for x in drawn} <= {
        round(float((a + b) / 2), 9)
        for a, b in itertools.product(
            [1.0, *(third[list(i)].mean() for i in itertools.product(range(3), repeat=3))], repeat=2
        )
    }


def test_p_values_are_at_least_students_over_seeds() -> None:
    values = clustered(5, 12, 0.3, draws("student"), mean=0.5)
    found = paired_bootstrap(values.tolist(), (0.1,), draws("bootstrap"))
    means = values.mean(1).numpy()
    assert found.above[0.1] >= scipy.stats.ttest_1samp(means, 0.1, alternative="greater").pvalue - 1e-12
    assert found.below[0.1] >= scipy.stats.ttest_1samp(means, 0.1, alternative="less").pvalue - 1e-12
    interval = scipy.stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert found.low <= interval.low + 1e-12
    assert found.high >= interval.high - 1e-12


def test_one_value_per_seed_is_students_test_where_the_bootstrap_is_too_sure() -> None:
    means = [0.2, 0.25, 0.3, 0.24, 0.27]
    found = paired_bootstrap([[mean] for mean in means], (0.1,), draws("means"))
    assert found.above[0.1] == pytest.approx(scipy.stats.ttest_1samp(means, 0.1, alternative="greater").pvalue)


def test_seeds_that_agree_by_chance_are_not_taken_for_certain() -> None:
    """Two seeds with the same share of successes: what varies within them still counts."""
    share = [1.0] * 8 + [0.0] * 4
    found = paired_bootstrap([share, share], (0.5,), draws("agree"))
    error = (sum((x - 2 / 3) ** 2 for x in share) / 11 / 12 / 2) ** 0.5
    assert found.above[0.5] == pytest.approx(scipy.stats.t.sf((2 / 3 - 0.5) / error, 1))


@pytest.mark.parametrize("test", [paired_bootstrap, sign_test])
def test_without_spread_counting_decides(test) -> None:
    equal = test([[0.3] * 4], (0.0, 0.3), draws("equal"))
    assert equal.above[0.0] == pytest.approx(0.5**4)
    assert equal.below[0.0] == 1.0
    assert equal.above[0.3] == equal.below[0.3] == 1.0


def test_yes_and_no_are_at_least_binomial() -> None:
    found = paired_bootstrap([[1.0] * 3, [1.0] * 3], (0.9,), draws("yes"))
    assert found.above[0.9] == pytest.approx(0.9**6)
    none = paired_bootstrap([[0.0] * 3, [0.0] * 3], (0.25,), draws("no"))
    assert none.below[0.25] == pytest.approx(0.75**6)


def test_one_value_decides_nothing() -> None:
    found = paired_bootstrap([[5.0]], (0.0,), draws("one"))
    assert found.above[0.0] == found.below[0.0] == 1.0
    assert found.low != found.low
    assert found.note == "one pair: no spread"


def test_sign_test_of_one_seed_is_the_binomial_test() -> None:
    values = [0.3, 0.1, -0.2, 0.4, 0.0, 0.5, 0.2, 0.0, 0.6]
    found = sign_test([values], (0.0,), draws("sign"))
    assert found.above[0.0] == pytest.approx(scipy.stats.binomtest(6, 7, alternative="greater").pvalue)
    assert found.below[0.0] == pytest.approx(scipy.stats.binomtest(1, 7, alternative="greater").pvalue)
    assert "2 ties dropped" in found.note
    assert found.effect == pytest.approx(sum(values) / 9)


def test_sign_test_of_several_seeds_is_not_surer_than_the_seeds() -> None:
    values = [[0.1, 0.2, 0.3], [0.1, 0.2, 0.4], [-0.1, -0.2, -0.3]]
    found = sign_test(values, (0.0,), draws("signs"))
    assert found.above[0.0] >= scipy.stats.ttest_1samp([0.2, 0.2, -0.2], 0.0, alternative="greater").pvalue - 1e-12
    assert found.above[0.0] >= scipy.stats.binomtest(6, 9, alternative="greater").pvalue


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_the_closed_test_of_bonferroni(seed: int) -> None:
    """Holm's adjusted p-value is the largest Bonferroni p-value of all sets of hypotheses that hold this one."""
    p = (torch.rand(5, generator=draws("holm", seed), dtype=torch.float64) ** 3).tolist()
    for i, adjusted in enumerate(holm(p)):
        sets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size) if i in s]
        assert adjusted == pytest.approx(max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets))


def test_holm_of_a_known_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_the_same_draws_give_the_same_evidence() -> None:
    values = clustered(3, 5, 0.2, draws("same")).tolist()
    first, again = (paired_bootstrap(values, (0.0,), draws("generator")) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("wrong", [[], [[]], [[1.0], []], [[float("nan")]], [[float("inf"), 1.0]]])
def test_nothing_or_no_numbers_is_a_mistake(wrong: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"seed|finite"):
        paired_bootstrap(wrong, (0.0,), draws("wrong"))


TABLES, CLAIMS, LEVEL = 200, 8, 0.05


def false_claims(
    seeds: int, correlation: float, test, resamples: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int]:
    """Of `TABLES` tables with claims that are just not true: those with a `holds`, and those with a `does not hold`."""
    monkeypatch.setattr(significance, "RESAMPLES", resamples)
    rng = draws("tables", seeds, int(10 * correlation))
    wrong = [0, 0]
    for _ in range(TABLES):
        p = []
        for _ in range(CLAIMS):
            found: Evidence = test(clustered(seeds, 12, correlation, rng).tolist(), (0.0,), rng)
            p += [found.above[0.0], found.below[0.0]]
        adjusted = holm(p)
        wrong[0] += min(adjusted[0::2]) <= LEVEL
        wrong[1] += min(adjusted[1::2]) <= LEVEL
    return wrong[0], wrong[1]


@pytest.mark.parametrize("correlation", [0.3, 0.9])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("test", [paired_bootstrap, sign_test])
def test_a_table_of_false_claims_seldom_says_holds(test, seeds, correlation, monkeypatch) -> None:
    """At most the level, and three standard errors of the simulation."""
    limit = TABLES * LEVEL + 3 * (TABLES * LEVEL * (1 - LEVEL)) ** 0.5
    resamples = 500 if test is paired_bootstrap else 1  # the sign test has only its interval from them
    holds, not_holds = false_claims(seeds, correlation, test, resamples, monkeypatch)
    print(f"{test.__name__}, {seeds} seeds, correlation {correlation}: {holds} and {not_holds} of {TABLES} tables")
    assert holds <= limit
    assert not_holds <= limit


def test_the_bootstrap_alone_would_say_it_far_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why Student's t stands beside it: with 5 seeds that differ much the bootstrap is wrong in every third table."""

    def alone(differences, margins, rng) -> Evidence:
        drawn = significance._resampled([torch.tensor(each, dtype=torch.float64) for each in differences], rng)
        p = [(int((sign * drawn <= 0).sum()) + 1) / (len(drawn) + 1) for sign in (1, -1)]
        return Evidence(0.0, 0.0, 0.0, 0, 0, {0.0: p[0]}, {0.0: p[1]})

    holds, _ = false_claims(5, 0.9, alone, 500, monkeypatch)
    assert holds > TABLES * (LEVEL + 0.1)


@pytest.mark.parametrize("test", [paired_bootstrap, sign_test])
def test_a_true_claim_is_found(test) -> None:
    """A mean of 2 standard deviations of a target, with 5 seeds of 12 targets and a correlation of 0.1.

    A seed's mean then has a standard deviation of (0.1 + 0.9/12)^(1/2) = 0.42 and Student's t of 5 seeds a
    noncentrality of 2 / 0.42 x 5^(1/2) = 10.7. It passes 5.6, the bound for 20 tests at 0.05, 99 times in 100.
    """
    found = 0
    for i in range(20):
        values = clustered(5, 12, 0.1, draws("power", i), mean=2.0)
        found += 20 * test(values.tolist(), (0.0,), draws("bootstrap", i)).above[0.0] <= 0.05
    assert found >= 18  # fewer in one case of a thousand


def test_the_interval_covers_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "RESAMPLES", 500)
    covered, rng = 0, draws("coverage")
    for _ in range(TABLES):
        found = paired_bootstrap(clustered(4, 12, 0.5, rng).tolist(), (), rng)
        covered += found.low <= 0 <= found.high
    assert covered >= TABLES * 0.95 - 3 * (TABLES * 0.95 * 0.05) ** 0.5
