"""The claims of a table, each answered `holds`, `does not hold` or `not decided`, with its effect and interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.randomness import generator
from experiments.paper_table.significance import Evidence, holm, paired_bootstrap, sign_test
from experiments.paper_table.specification import Claim
from games.game import WHOLE, Game, Values, metric_of

TESTS = {
    "paired_bootstrap": (
        paired_bootstrap,
        "paired bootstrap over seeds and targets; p at least that of Student's t over seeds",
    ),
    "sign": (sign_test, "sign test over targets; p at least that of Student's t over seeds"),
}
# when the difference, measured - compared with, supports a claim
SUPPORTS = {
    "greater": "a difference above {:g} supports the claim",
    "less": "a difference below {:g} supports the claim",
    "within": "a difference within {:g} of 0 supports the claim",
}
BySeed = Mapping[int, Values]
Measured = Callable[[str, str, str], "BySeed | str"]  # row, metric, part -> values, or why there are none


@dataclass(frozen=True)
class Verdict:
    """The answer to a claim.

    `effect` is the mean of quantity - baseline with its 95% interval; `measured` and `baseline` are the two means. `p`
    is one-sided: that of the opposite claim where the verdict is `does not hold`, else that of the claim; `p_adjusted`
    after Holm's rule over all claims of the table and both directions. What could not be tested has NaN numbers and a
    reason in `detail`.
    """

    id: str
    text: str
    verdict: str
    effect: float
    low: float
    high: float
    measured: float
    baseline: float
    p: float
    p_adjusted: float
    n_seeds: int
    n: int
    unit: str
    test: str
    detail: str


@dataclass(frozen=True)
class Pairs:
    """Differences by seed, the means of both sides, and how the sides were paired.

    From a constant baseline nothing is subtracted: it is the `offset` of the margins, so that counts remain counts.
    """

    differences: tuple[tuple[float, ...], ...]
    measured: float
    baseline: float
    paired: str
    offset: float = 0.0


def judge(claims: Sequence[Claim], measured: Measured, table: str, game: Game) -> list[Verdict]:
    """Test every claim of a table.

    Each claim is tested in both directions, so m claims are 2m one-sided tests, and Holm's rule goes over all of them:
    the chance of any wrong `holds` or wrong `does not hold` in the table is at most the level. A claim that cannot be
    tested counts with p = 1.

    Args:
        claims: what is claimed.
        measured: gives the values of a row, metric and part, by seed and unit, or the reason why there are none.
        table: its name, from which the draws of the bootstrap are derived.
        game: the game that it is about, which says what kind of number a metric is.
    """
    found = [_evidence(claim, measured, table) for claim in claims]
    both = [_p_values(claim, pairs, evidence) for claim, (pairs, evidence, _) in zip(claims, found, strict=True)]
    adjusted = holm([p for each in both for p in each])
    return [
        _verdict(claim, game, *each, raw, (adjusted[2 * i], adjusted[2 * i + 1]), len(claims))
        for i, (claim, each, raw) in enumerate(zip(claims, found, both, strict=True))
    ]


def pairs(claim: Claim, measured: Measured) -> Pairs | str:
    """The differences of a claim, or the reason why there are none.

    Both sides of a seed are paired by target where they have the same targets in every seed, else by seed: the mean of
    one less the mean of the other. Seeds where a side is not defined are left out.
    """
    sides = [measured(*side) for side in claim.sides]
    for side in sides:
        if isinstance(side, str):
            return side
    own = {seed: values for seed, values in sides[0].items() if values}  # type: ignore[union-attr]
    if claim.against.constant is not None:
        constant = claim.against.constant
        if not own:
            return f"{claim.metric} of {claim.row} is not defined in any game"
        values = tuple(tuple(own[seed].values()) for seed in sorted(own))
        return Pairs(values, _mean_of_means(own.values()), constant, "", constant)
    other = {seed: values for seed, values in sides[1].items() if values}  # type: ignore[union-attr]
    seeds, factor = sorted(own.keys() & other.keys()), claim.against.factor
    if not seeds:
        return f"{claim.metric} of {claim.row} and what it is compared with are not defined in the same seeds"
    means = _mean_of_means(own[s] for s in seeds), factor * _mean_of_means(other[s] for s in seeds)
    if all(own[s].keys() == other[s].keys() for s in seeds):
        differences = tuple(tuple(own[s][unit] - factor * other[s][unit] for unit in own[s]) for s in seeds)
        return Pairs(differences, *means, "paired by target" if any(len(own[s]) > 1 for s in seeds) else "")
    differences = tuple((_mean(own[s].values()) - factor * _mean(other[s].values()),) for s in seeds)
    return Pairs(differences, *means, "paired by seed")


def _evidence(claim: Claim, measured: Measured, table: str) -> tuple[Pairs | None, Evidence | None, str]:
    found = pairs(claim, measured)
    if isinstance(found, str):
        return None, None, found
    margins = [found.offset + margin for margin in (claim.margin, -claim.margin)]
    evidence = TESTS[claim.test][0](found.differences, margins, generator(0, "claim", table, claim.id))
    return found, evidence, ""


def _p_values(claim: Claim, found: Pairs | None, evidence: Evidence | None) -> tuple[float, float]:
    """The p-values of the claim and of its opposite."""
    if found is None or evidence is None:
        return 1.0, 1.0
    above, below = evidence.above, evidence.below
    upper, lower = found.offset + claim.margin, found.offset - claim.margin
    if claim.comparison == "greater":
        return above[upper], below[upper]
    if claim.comparison == "less":
        return below[lower], above[lower]
    outside = min(above[upper], below[lower])  # within: two one-sided tests against both ends of the margin
    return max(above[lower], below[upper]), min(1.0, 2 * outside)


def _verdict(
    claim: Claim, game: Game, found: Pairs | None, evidence: Evidence | None, reason: str, raw: tuple[float, float],
    adjusted: tuple[float, float], claims: int,
) -> Verdict:  # fmt: skip
    answer = "not decided"
    if adjusted[0] <= claim.level:
        answer = "holds"
    elif adjusted[1] <= claim.level:
        answer = "does not hold"
    name = TESTS[claim.test][1]
    if found is None or evidence is None:
        missing = (math.nan,) * 7
        return Verdict(claim.id, claim.text, answer, *missing, 0, 0, claim.unit, name, reason)
    sides = f"{found.measured:.3g} against {found.baseline:.3g}"
    holm_over = f"Holm over {2 * claims} one-sided tests"
    parts = [
        _asked(claim), sides, _supports(claim), found.paired, _at_the_bound(claim, found),
        evidence.note, holm_over, claim.source,
    ]  # fmt: skip
    effect, low, high = (x - found.offset for x in (evidence.effect, evidence.low, evidence.high))
    low, high = _within_range(claim, game, low, high)
    said = int(answer == "does not hold")
    return Verdict(
        claim.id, claim.text, answer, effect, low, high, found.measured, found.baseline, raw[said], adjusted[said],
        evidence.seeds, evidence.n, claim.unit, name, "; ".join(part for part in parts if part),
    )  # fmt: skip


def _within_range(claim: Claim, game: Game, low: float, high: float) -> tuple[float, float]:
    """An interval of a difference of shares or AUROCs, cut at -1 and 1; beyond its constant a share cannot lie."""
    if not metric_of(game, claim.metric).share or math.isnan(low):
        return low, high
    constant = claim.against.constant
    ends = (-1.0, 1.0) if constant is None else (-constant, 1.0 - constant)
    return max(low, ends[0]), min(high, ends[1])


def _supports(claim: Claim) -> str:
    margin = -claim.margin if claim.comparison == "less" and claim.margin else claim.margin
    return SUPPORTS[claim.comparison].format(margin)


def _at_the_bound(claim: Claim, found: Pairs) -> str:
    """What p = 1 means where nothing lies on either side of the bound."""
    bound = found.offset + (-claim.margin if claim.comparison == "less" else claim.margin)
    if claim.comparison != "within" and all(value == bound for seed in found.differences for value in seed):
        return "every value is exactly at the bound, where neither the claim nor its opposite can be shown (p = 1)"
    return ""


def _asked(claim: Claim) -> str:
    """The claim as a formula."""
    against = claim.against
    if against.constant is not None:
        baseline = f"{against.constant:g}"
    else:
        row, metric, part = claim.sides[1]
        factor = "" if against.factor == 1 else f"{against.factor:g} x "
        baseline = f"{factor}{metric} of {row}{_of(part)}"
    quantity = f"{claim.metric} of {claim.row}{_of(claim.part)}"
    if claim.comparison == "within":
        return f"{quantity}, within {claim.margin:g} of {baseline}"
    sign, plus = (">", "+") if claim.comparison == "greater" else ("<", "-")
    margin = f" {plus} {claim.margin:g}" if claim.margin else ""
    return f"{quantity}, {sign} {baseline}{margin}"


def _of(part: str) -> str:
    return "" if part == WHOLE else f", {part}"


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)


def _mean_of_means(seeds: Any) -> float:
    return _mean(_mean(values.values()) for values in seeds)
