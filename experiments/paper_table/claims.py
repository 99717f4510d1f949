"""The claims of a table, each answered `holds`, `does not hold` or `not decided`, with its effect and interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from data.randomness import generator
from experiments.paper_table.results import BySeed
from experiments.paper_table.specification import Claim
from games.game import WHOLE, Game, Values, metric_of
from metrics.significance import Differences, Evidence, holm, paired_bootstrap, sign_test

AT_LEAST = "p at least that of Student's t over seeds"
TESTS = {
    "paired_bootstrap": (paired_bootstrap, f"paired bootstrap over seeds and targets; {AT_LEAST}"),
    "sign": (sign_test, f"sign test over targets; {AT_LEAST}"),
}
# the difference, measured - compared with, that supports a claim
SUPPORTS = {"greater": "above {:g}", "less": "below {:g}", "within": "within {:g} of 0"}
AT_BOUND = "every value is exactly at the bound, where neither the claim nor its opposite can be shown (p = 1)"
Measured = Callable[[str, str, str | None], BySeed | str]  # row, metric, part -> values, or why there are none


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer to a claim, its `verdict`.

    `effect` is the mean of quantity - baseline with its 95% interval; `measured` and `baseline` are the two means. `p`
    is one-sided: that of the opposite claim where the verdict is `does not hold`, else that of the claim; `p_adjusted`
    after Holm's rule over all claims of the table and both directions. What could not be tested has NaN numbers and a
    reason in `detail`.
    """

    id: str
    text: str
    verdict: str
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    measured: float = math.nan
    baseline: float = math.nan
    p: float = math.nan
    p_adjusted: float = math.nan
    n_seeds: int = 0
    n: int = 0
    unit: str
    test: str
    detail: str = ""


@dataclass(frozen=True)
class Pairs:
    """Differences by seed, the means of both sides, and how the sides were paired.

    From a constant baseline nothing is subtracted: it is the `offset` of the margins, so that counts remain counts.
    """

    differences: Differences
    measured: float
    baseline: float
    paired: str = ""
    offset: float = 0.0


Tested = tuple[Pairs, Evidence, tuple[float, float]]  # with the p-values of the claim and of its opposite


def judge(claims: Sequence[Claim], measured: Measured, table: str, game: Game) -> list[Finding]:
    """Test every claim of a table about a game; from its name `table` the draws of the bootstrap are derived.

    Each claim is tested in both directions, so m claims are 2m one-sided tests, and Holm's rule goes over all of them:
    the chance of any wrong `holds` or wrong `does not hold` in the table is at most the level. A claim that cannot be
    tested counts with p = 1. `measured` gives the values of a row, metric and part by seed and unit, or the reason why
    there are none.
    """
    tested = [_tested(claim, measured, table, game) for claim in claims]
    adjusted = holm([p for each in tested for p in ((1.0, 1.0) if isinstance(each, str) else each[2])])
    every = zip(claims, tested, adjusted[::2], adjusted[1::2], strict=True)
    return [_finding(claim, each, (holds, fails), len(claims), game) for claim, each, holds, fails in every]


def pairs(claim: Claim, measured: Measured) -> Pairs | str:
    """The differences of a claim, or the reason why there are none.

    Both sides of a seed are paired by target where they have the same targets in every seed, else by seed: the mean of
    one less the mean of the other. Seeds where a side is not defined are left out.
    """
    sides = []
    for row, metric, part in claim.sides:
        values = measured(row, metric, part)
        if isinstance(values, str):
            return values
        sides.append({seed: units for seed, units in values.items() if units})
    own, constant, factor = sides[0], claim.against.constant, claim.against.factor
    if constant is not None:
        if not own:
            return f"{claim.metric} of {claim.row} is not defined in any game"
        differences = [list(own[seed].values()) for seed in sorted(own)]
        return Pairs(differences, _mean_of_means(own.values()), constant, offset=constant)
    both = [(own[seed], sides[1][seed]) for seed in sorted(own.keys() & sides[1].keys())]
    if not both:
        return f"{claim.metric} of {claim.row} and what it is compared with are not defined in the same seeds"
    means = _mean_of_means([mine for mine, _ in both]), factor * _mean_of_means([other for _, other in both])
    if all(mine.keys() == other.keys() for mine, other in both):
        differences = [[mine[unit] - factor * other[unit] for unit in mine] for mine, other in both]
        return Pairs(differences, *means, "paired by target" if any(len(mine) > 1 for mine, _ in both) else "")
    differences = [[_mean(mine.values()) - factor * _mean(other.values())] for mine, other in both]
    return Pairs(differences, *means, "paired by seed")


def _tested(claim: Claim, measured: Measured, table: str, game: Game) -> Tested | str:
    """What the test of a claim says, or the reason why it cannot be tested."""
    found = pairs(claim, measured)
    if isinstance(found, str):
        return found
    upper, lower, share = found.offset + claim.margin, found.offset - claim.margin, metric_of(game, claim.metric).share
    evidence = TESTS[claim.test][0](found.differences, [upper, lower], generator(0, "claim", table, claim.id), share)
    above, below = evidence.above, evidence.below
    if claim.comparison == "greater":
        return found, evidence, (above[upper], below[upper])
    if claim.comparison == "less":
        return found, evidence, (below[lower], above[lower])
    outside = min(above[upper], below[lower])  # within: two one-sided tests against both ends of the margin
    return found, evidence, (max(above[lower], below[upper]), min(1.0, 2 * outside))


def _finding(claim: Claim, tested: Tested | str, adjusted: tuple[float, float], claims: int, game: Game) -> Finding:
    holds, fails = (p <= claim.level for p in adjusted)
    verdict = "holds" if holds else "does not hold" if fails else "not decided"
    finding = Finding(id=claim.id, text=claim.text, verdict=verdict, unit=claim.unit, test=TESTS[claim.test][1])
    if isinstance(tested, str):
        return replace(finding, detail=tested)
    found, evidence, p_values = tested
    effect, low, high = (x - found.offset for x in (evidence.effect, evidence.low, evidence.high))
    if metric_of(game, claim.metric).share and not math.isnan(low):  # a difference of shares keeps within its bounds
        constant = claim.against.constant
        ends = (-1.0, 1.0) if constant is None else (-constant, 1.0 - constant)
        low, high = max(low, ends[0]), min(high, ends[1])
    opposite = fails and not holds
    return replace(
        finding, effect=effect, low=low, high=high, measured=found.measured, baseline=found.baseline,
        p=p_values[opposite], p_adjusted=adjusted[opposite], n_seeds=evidence.seeds, n=evidence.n,
        detail=_detail(claim, found, evidence, claims),
    )  # fmt: skip


def _detail(claim: Claim, found: Pairs, evidence: Evidence, claims: int) -> str:
    """What was asked, what was measured, and how it was tested."""
    bound = -claim.margin if claim.comparison == "less" and claim.margin else claim.margin
    supports = f"a difference {SUPPORTS[claim.comparison].format(bound)} supports the claim"
    parts = [_asked(claim), f"{found.measured:.3g} against {found.baseline:.3g}", supports, found.paired]
    at_bound = all(value == found.offset + bound for seed in found.differences for value in seed)
    if claim.comparison != "within" and at_bound:
        parts.append(AT_BOUND)
    parts += [evidence.note, f"Holm over {2 * claims} one-sided tests", claim.source]
    return "; ".join(filter(None, parts))


def _asked(claim: Claim) -> str:
    """The claim as a formula."""
    against = claim.against
    quantity, *others = [_side(*side) for side in claim.sides]
    factor = "" if against.factor == 1 else f"{against.factor:g} x "
    baseline = f"{factor}{others[0]}" if others else f"{against.constant:g}"
    if claim.comparison == "within":
        return f"{quantity}, within {claim.margin:g} of {baseline}"
    sign, plus = (">", "+") if claim.comparison == "greater" else ("<", "-")
    margin = f" {plus} {claim.margin:g}" if claim.margin else ""
    return f"{quantity}, {sign} {baseline}{margin}"


def _side(row: str, metric: str, part: str | None) -> str:
    return f"{metric} of {row}" if part in (None, WHOLE) else f"{metric} of {row}, {part}"


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values)


def _mean_of_means(seeds: Collection[Values]) -> float:
    return _mean([_mean(values.values()) for values in seeds])
