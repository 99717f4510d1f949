"""Verdicts: what is compared with what, in which direction, and what is said where nothing can be said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from experiments.paper_table.claims import Finding, judge, pairs
from experiments.paper_table.specification import Baseline, Claim
from games.game import Values
from games.request.game import RequestGame
from tests.experiments.paper_table.synthetic import clustered, draws

SEEDS, TARGETS = 5, 12


def values(
    name: str, mean: float, spread: float = 0.05, seeds: int = SEEDS, targets: int = TARGETS
) -> dict[int, Values]:
    """Values by seed and target around a mean."""
    drawn = mean + spread * clustered(seeds, targets, 0.3, draws("claims", name))
    return {seed: {str(i): float(value) for i, value in enumerate(row)} for seed, row in enumerate(drawn)}


def claim(comparison: str = "greater", against: Any = None, **entries: Any) -> Claim:
    default: dict[str, Any] = {
        "id": "it", "text": "It is so", "row": "a", "metric": "gain", "part": "over", "comparison": comparison,
        "against": Baseline(**(against or {"constant": 0.0})),
    }  # fmt: skip
    return Claim(**{**default, **entries})


def verdict(one: Claim, found: Mapping[tuple[str, str, str], Any]) -> Finding:
    [answer] = judge([one], lambda *side: found.get(side, f"no {side[0]}"), "table", RequestGame())
    return answer


A, B = ("a", "gain", "over"), ("b", "gain", "over")


@pytest.mark.parametrize(
    ("comparison", "margin", "mean", "answer"),
    [
        ("greater", 0.0, 0.3, "holds"),
        ("greater", 0.2, 0.3, "holds"),
        ("greater", 0.3, 0.3, "not decided"),
        ("greater", 0.4, 0.3, "does not hold"),
        ("greater", 0.0, -0.3, "does not hold"),
        ("less", 0.0, -0.3, "holds"),
        ("less", 0.2, -0.3, "holds"),
        ("less", 0.4, -0.3, "does not hold"),
        ("less", 0.0, 0.3, "does not hold"),
        ("within", 0.2, 0.02, "holds"),
        ("within", 0.2, -0.02, "holds"),
        ("within", 0.2, 0.4, "does not hold"),
        ("within", 0.2, -0.4, "does not hold"),
        ("within", 0.02, 0.02, "not decided"),
    ],
)
@pytest.mark.parametrize("test", ["paired_bootstrap", "sign"])
def test_the_verdict_follows_the_measured_difference(test, comparison, margin, mean, answer) -> None:
    found = verdict(claim(comparison, margin=margin, test=test), {A: values("mean", mean)})
    assert found.verdict == answer
    assert found.low < found.effect < found.high
    assert found.effect == pytest.approx(mean, abs=0.1)
    assert (found.n_seeds, found.n) == (SEEDS, SEEDS * TARGETS)
    if answer != "not decided":
        assert found.p <= found.p_adjusted <= 0.05


@pytest.mark.parametrize(("constant", "answer"), [(0.1, "holds"), (0.5, "does not hold")])
def test_a_constant_is_subtracted_from_the_effect(constant: float, answer: str) -> None:
    found = verdict(claim(against={"constant": constant}), {A: values("constant", 0.3)})
    assert found.verdict == answer
    assert found.effect == pytest.approx(found.measured - constant)
    assert found.baseline == constant
    assert found.low < found.measured - constant < found.high


def test_pairs_remove_what_targets_have_in_common() -> None:
    """Targets differ by far more than the rows do: only the pairing shows it."""
    wide = values("wide", 0.0, spread=1.0)
    better = {seed: {unit: value + 0.05 for unit, value in row.items()} for seed, row in wide.items()}
    found = verdict(claim(against={"row": "b"}), {A: better, B: wide})
    assert found.verdict == "holds"
    assert found.effect == pytest.approx(0.05)
    assert "paired by target" in found.detail


def test_other_targets_are_paired_by_seed() -> None:
    first, second = values("first", 0.4), values("second", 0.1)
    renamed = {seed: {f"other {unit}": value for unit, value in row.items()} for seed, row in second.items()}
    found = pairs(claim(against={"row": "b"}), lambda *side: {A: first, B: renamed}[side])
    assert not isinstance(found, str)
    assert found.paired == "paired by seed"
    assert all(len(each) == 1 for each in found.differences)
    means = [sum(first[s].values()) / TARGETS - sum(second[s].values()) / TARGETS for s in range(SEEDS)]
    assert [each[0] for each in found.differences] == pytest.approx(means)


def test_a_factor_scales_the_baseline() -> None:
    white = values("white", 0.4)
    black = {seed: {unit: 0.7 * value for unit, value in row.items()} for seed, row in white.items()}
    found = verdict(claim(against={"row": "b", "factor": 0.6}), {A: black, B: white})
    assert found.verdict == "holds"
    assert found.baseline == pytest.approx(0.6 * found.measured / 0.7)
    assert "0.6 x gain of b" in found.detail


def test_another_metric_of_the_same_row_can_be_the_baseline() -> None:
    other = values("other", 0.1)
    found = verdict(
        claim(against={"metric": "gain_random"}), {A: values("own", 0.4), ("a", "gain_random", "over"): other}
    )
    assert found.verdict == "holds"


def test_seeds_where_a_side_is_not_defined_are_left_out() -> None:
    first, second = values("first", 0.4), values("second", 0.1)
    first[0], second[1] = {}, {}
    found = verdict(claim(against={"row": "b"}), {A: first, B: second})
    assert (found.n_seeds, found.n) == (3, 3 * TARGETS)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({}, "no a"),
        ({A: values("a", 1.0)}, "no b"),
        ({A: {0: {}}, B: {0: {"1": 1.0}}}, "not defined in the same seeds"),
    ],
)
def test_without_values_there_is_a_reason(found: Any, reason: str) -> None:
    answer = verdict(claim(against={"row": "b"}), found)
    assert answer.verdict == "not decided"
    assert reason in answer.detail
    assert math.isnan(answer.effect)
    assert answer.n == 0


def test_a_single_seed_is_said() -> None:
    found = verdict(claim(), {A: values("single", 0.3, seeds=1)})
    assert "one seed: only targets vary" in found.detail


def test_one_value_decides_nothing() -> None:
    found = verdict(claim(), {A: {0: {"1": 5.0}}})
    assert found.verdict == "not decided"
    assert found.p_adjusted == 1.0


def test_many_claims_make_each_harder() -> None:
    """Holm's rule counts every claim in both directions, also those that could not be tested."""
    borderline = {A: values("borderline", 0.021, spread=0.05)}
    one = verdict(claim(), borderline)
    many = judge(
        [claim(), *(claim(id=f"x{i}", row="missing") for i in range(9))],
        lambda *s: borderline.get(s, "no"),
        "table",
        RequestGame(),
    )
    assert one.p_adjusted == pytest.approx(2 * one.p)
    assert many[0].p == one.p
    assert many[0].p_adjusted == pytest.approx(min(1, 20 * one.p))
    assert "Holm over 20 one-sided tests" in many[0].detail


def test_p_is_that_of_the_direction_that_the_verdict_speaks_of() -> None:
    found = verdict(claim(), {A: values("below", -0.3)})
    assert found.verdict == "does not hold"
    assert found.p_adjusted < 0.05


def test_verdicts_are_reproducible() -> None:
    found = {A: values("same", 0.1, spread=0.3)}
    assert verdict(claim(), found) == verdict(claim(), found)


def test_a_verdict_says_which_sign_supports_the_claim() -> None:
    found = {A: values("a", 0.3)}
    assert "a difference above 0.1 supports the claim" in verdict(claim(margin=0.1), found).detail
    assert "a difference below -0.1 supports the claim" in verdict(claim("less", margin=0.1), found).detail
    assert "a difference below 0 supports the claim" in verdict(claim("less"), found).detail
    assert "a difference within 0.1 of 0 supports the claim" in verdict(claim("within", margin=0.1), found).detail


def test_p_of_1_is_explained_where_every_value_is_at_the_bound() -> None:
    kept = {seed: dict.fromkeys(map(str, range(TARGETS)), 1.0) for seed in range(SEEDS)}
    for comparison in ("greater", "less"):
        answer = verdict(claim(comparison, {"constant": 1.0}), {A: kept})
        assert (answer.verdict, answer.p) == ("not decided", 1.0)
        assert "exactly at the bound" in answer.detail
    assert "exactly at the bound" not in verdict(claim(against={"constant": 0.9}), {A: kept}).detail
