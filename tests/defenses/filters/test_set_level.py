"""A batch as a whole against random ones: moments, simulated maxima, and what two stages leave of an attack."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from math import ceil

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from defenses.defense import Context, reviewed
from defenses.filters.effects import margins, summed_gradient
from defenses.filters.influence import Influence
from defenses.filters.set_level import SetLevel
from defenses.filters.trusted_points import batch_effects, null_of, record_effects
from metrics.cusum import cusum, first_alarm
from metrics.detection import auroc, calibrated_threshold, tpr_at_fpr
from models.gradients import per_example_gradients
from models.small_cnn import SmallCNN
from models.solver import Solver
from models.training import Training, initialise
from models.victim import Victim
from tests.attacks.checks import bed
from tests.defenses.filters.batches import ALPHA, SIZE, attacked, benign, curvature, rows
from tests.defenses.filters.test_influence import trusted_margin_gradients
from tests.testbed import LAMBDA, TRAINING, TRUSTED
from unlearning.procedure import Task

FILTER = SetLevel(solver=Solver(method="auto", tolerance=1e-10))


def seen(seed: int) -> Context:
    of = bed(seed)
    return Context(of.task, of.victim, of.victim, of.trusted)


@cache
def effects(seed: int) -> Tensor:
    """a_i(m_j) (300, 500) by dense algebra."""
    of = bed(seed)
    g = per_example_gradients(of.victim, of.task.records)
    return g @ torch.linalg.solve(curvature(of), trusted_margin_gradients(of).T)


def random_sets(name: str, count: int, size: int = SIZE) -> Tensor:
    return torch.stack(benign(0, name, count, size))


def test_effects_equal_dense_algebra() -> None:
    """Of single records, and their sums over a batch, < 1e-10."""
    of, context, batch = bed(0), seen(0), benign(0, "batch", 1)[0]
    null = FILTER.null(context, SIZE)
    parts = [found for _, found in record_effects(context, of.trusted, null.labels, "inverse_curvature", FILTER.solver)]
    assert (torch.cat(parts).T - effects(0)).abs().max() < 1e-10
    expected = (effects(0)[batch].sum(0) - null.mean) / null.deviation
    assert (FILTER.standardised(context, batch) - expected).abs().max() < 1e-8


def test_analytic_moments_are_those_of_random_requests() -> None:
    """Against 2000 simulated ones: mean within 0.1 sd, sd within 8%, of every one of the 500 points.

    Their standard errors are 0.022 sd and 1.6%; the largest of 500 correlated ones lies below 4.5 of them.
    """
    null = FILTER.null(seen(0), SIZE)
    totals = effects(0)[random_sets("simulated", 2000)].sum(1)
    off = (totals.mean(0) - null.mean).abs() / null.deviation
    spread = (totals.std(0) / null.deviation - 1).abs()
    print(f"mean off by {off.max():.3f} sd, sd by {spread.max():.1%}")
    assert off.max() < 0.1
    assert spread.max() < 0.08


def test_stationarity_identity() -> None:
    """sum_i a_i(m_j) = -Lambda <B grad m_j, theta> at an optimum, for every trusted point, < 1e-8."""
    of = bed(0)
    null = FILTER.null(seen(0), SIZE)
    expected = -LAMBDA * torch.linalg.solve(curvature(of), of.victim.flat()) @ trusted_margin_gradients(of).T
    assert (null.mean * TRAINING / SIZE - expected).abs().max() < 1e-8


def test_the_threshold_is_an_order_statistic_of_simulated_maxima() -> None:
    """About 3.7 for 500 points; as of 2000 sets drawn apart, whose 95% points scatter by less than 0.15."""
    null = FILTER.null(seen(0), SIZE)
    assert len(null.maxima) == 2000
    verdict = FILTER.review(seen(0), benign(0, "batch", 1)[0])
    assert verdict.threshold == float(null.maxima.sort().values[ceil(2001 * 0.95) - 1])
    other = null.standardised(effects(0)[random_sets("others", 2000)].sum(1)).abs().amax(1)
    print(f"thresholds {verdict.threshold:.2f}, {calibrated_threshold(other, ALPHA):.2f}")
    assert abs(verdict.threshold - calibrated_threshold(other, ALPHA)) < 0.15
    assert 3.4 < verdict.threshold < 4.0


def test_random_batches_are_flagged_at_the_promised_rate() -> None:
    """900 batches of three draws; standard errors of live batches and of simulated ones are added up."""
    live, flagged = 300, []
    for seed in range(3):
        null = FILTER.null(seen(seed), SIZE)
        totals = effects(seed)[torch.stack(benign(seed, "live", live))].sum(1)
        flagged.append(null.standardised(totals).abs().amax(1) > calibrated_threshold(null.maxima, ALPHA))
    rate = float(torch.cat(flagged).double().mean())
    error = (ALPHA * (1 - ALPHA) * (1 / (3 * live) + 1 / (3 * FILTER.sets))) ** 0.5
    print(f"flagged {rate:.3f} +- {error:.3f}")
    assert abs(rate - ALPHA) <= 3 * error


def test_attacked_batches_are_told_from_random_ones_and_two_stages_disarm_them() -> None:
    """15 one-shot requests among 45 random ones: AUROC of the batch, and label flips after the top quarter is held.

    Over eight draws of the testbed AUROC is 0.97 to 1.00, and TPR at 5% 0.83 to 1.00.
    """
    bad, good, mixed, left, held = [], [], [], [], []
    for seed in range(3):
        found = attacked(seed, None)
        verdicts = [FILTER.review(found.context(i), batch) for i, batch in enumerate(found.batches)]
        bad += [verdict.scores.max() for verdict in verdicts]
        good += [FILTER.standardised(seen(seed), batch).abs().max() for batch in benign(seed, "live", 100)]
        mixed.append(found.flipped(found.batches))
        left.append(found.flipped([b[v.accepted] for b, v in zip(found.batches, verdicts, strict=True)]))
        held += [~verdict.accepted[~found.malicious] for verdict in verdicts]
    scores, truth = torch.stack([*bad, *good]), torch.arange(len(bad) + len(good)) < len(bad)
    rates = {level: tpr_at_fpr(scores, truth, level).value for level in (0.05, 0.01)}
    after, rejected = (float(torch.cat(each).double().mean()) for each in (left, held))
    print(f"Zmax: AUROC {auroc(scores, truth).value:.3f}, TPR at 5% and 1% {rates}")
    print(f"ASR {torch.cat(mixed).double().mean():.2f}, after two stages {after:.2f}, benign rejected {rejected:.3f}")
    assert auroc(scores, truth).value >= 0.97
    assert rates[0.05] >= 0.8
    assert float(torch.cat(mixed).double().mean()) > 0.6
    assert after <= 0.25
    assert rejected <= 0.1


def test_an_attack_that_caps_its_norms_is_harder_to_tell() -> None:
    """Only records below the 70% quantile of gradient norms: AUROC of the batch, and label flips before and after."""
    bad: dict[float | None, list[Tensor]] = {None: [], 0.7: []}
    good, mixed, left = [], [], []
    for seed in range(3):
        for cap, values in bad.items():
            values += [FILTER.standardised(seen(seed), batch).abs().max() for batch in attacked(seed, cap).batches]
        good += [FILTER.standardised(seen(seed), batch).abs().max() for batch in benign(seed, "live", 100)]
        capped = attacked(seed, 0.7)
        verdicts = [FILTER.review(capped.context(i), batch) for i, batch in enumerate(capped.batches)]
        mixed.append(capped.flipped(capped.batches))
        left.append(capped.flipped([b[v.accepted] for b, v in zip(capped.batches, verdicts, strict=True)]))
    found = {
        cap: auroc(torch.stack([*values, *good]), torch.arange(len(values) + len(good)) < len(values)).value
        for cap, values in bad.items()
    }
    flipped = [float(torch.cat(each).double().mean()) for each in (mixed, left)]
    print(f"Zmax AUROC by cap {found}; capped: ASR {flipped[0]:.2f}, after two stages {flipped[1]:.2f}")
    assert found[0.7] < found[None] - 0.1
    assert flipped[1] <= flipped[0] < 0.7


def test_memory_is_bounded_and_results_do_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(FILTER, points=50)
    null = few.null(seen(0), SIZE)
    monkeypatch.setattr("defenses.filters.trusted_points.NUMBERS", 7 * TRAINING)  # seven points, five sets at once
    parts = null_of(seen(0), bed(0).trusted[:50], SIZE, few.sets, "inverse_curvature", few.solver)
    assert (parts.mean - null.mean).abs().max() < 1e-10
    assert (parts.deviation - null.deviation).abs().max() < 1e-10
    assert (parts.maxima - null.maxima).abs().max() < 1e-8


def test_it_works_with_convolutions_in_single_precision() -> None:
    """Effects of records add up to those of their batch, which move margins as they say: against small steps."""
    rng = generator(0, "images")
    records = Examples(torch.randn(60, 1, 8, 8, generator=rng), torch.arange(60) % 3)
    build = partial(SmallCNN, shape=(1, 8, 8), classes=3, widths=(4, 8))
    victim = Victim(*initialise(build, 0, records.x))
    context = Context(Task(records, build, Training()), victim, victim, records[:20])
    plain, batch = SetLevel(preconditioner="identity", sets=100), torch.arange(12)
    null = plain.null(context, 12)
    parts = record_effects(context, records[:20], null.labels, "identity", plain.solver)
    singles = torch.cat([found for _, found in parts]).T[batch].sum(0)
    whole = batch_effects(context, records[:20], null.labels, records[batch], "identity", plain.solver)
    assert (singles - whole).abs().max() < 1e-5 * whole.abs().max()
    step = summed_gradient(victim, records[batch])[None] / 60
    apart = torch.stack([victim.moved(s * step)[0].logits(records.x[:20]) for s in (1e-2, -1e-2)])
    moved = margins(apart[0], null.labels) - margins(apart[1], null.labels)
    assert (moved / 2e-2 - whole).abs().max() < 2e-2 * whole.abs().max()
    for score in ("S4", "S7"):
        influence = Influence(score=score, solver=Solver(damping=0.1))  # type: ignore[arg-type]
        assert bool(influence.scores(context, batch).isfinite().all())
    assert len(plain.review(context, batch).accepted) == 12


def test_what_is_quarantined_is_the_part_ranked_highest() -> None:
    found = attacked(0, None)
    most = max(range(8), key=lambda i: float(FILTER.standardised(seen(0), found.batches[i]).abs().max()))
    context, batch = found.context(most), found.batches[most]
    plain = replace(FILTER, share=0.1).review(context, batch)
    assert int((~plain.accepted).sum()) == 6
    assert bool(found.malicious[~plain.accepted].all())
    for share in (0.26, 1.0):
        assert int((~replace(FILTER, share=share).review(context, batch).accepted).sum()) == ceil(share * SIZE)
    z = FILTER.standardised(context, batch)
    point = z.abs().argmax()
    shares = effects(0)[batch, point] * z[point].sign()
    by_point = replace(FILTER, ranking="S4").review(context, batch)
    assert set(by_point.scores.nonzero()[:, 0].tolist()) == set(shares.topk(15).indices.tolist())
    assert float(by_point.scores.max()) == pytest.approx(float(z.abs().max()))
    calm = benign(0, "batch", 1)[0]
    assert bool(FILTER.review(seen(0), calm).accepted.all())
    assert reviewed(FILTER, seen(0), calm).scores.dtype == torch.float64


def test_what_is_gone_is_no_part_of_random_requests() -> None:
    of = bed(0)
    gone = rows([torch.arange(100)])[0]
    context = replace(seen(0), task=replace(of.task, forgotten=gone))
    few = replace(FILTER, points=7, preconditioner="identity")
    null = few.null(context, 40)
    g = per_example_gradients(of.victim, of.task.records)[100:]
    expected = g @ trusted_margin_gradients(of)[:7].T / TRAINING
    assert (null.mean - 40 * expected.mean(0)).abs().max() < 1e-12
    assert (null.deviation - (40 * (1 - 40 / 200)) ** 0.5 * expected.std(0)).abs().max() < 1e-12


def test_moments_are_computed_once_for_a_victim_and_again_for_other_points() -> None:
    context = seen(1)
    null = FILTER.null(context, SIZE)
    again = replace(context, trusted=context.trusted[: len(context.trusted)], candidate=context.victim.clone())
    assert FILTER.null(again, SIZE) is null
    assert replace(FILTER, rate=0.1).null(context, SIZE) is null
    others = (replace(context, trusted=context.trusted[:-1]), replace(context, victim=context.victim.clone()))
    assert all(FILTER.null(each, SIZE) is not null for each in others)
    assert FILTER.null(context, SIZE - 1) is not null
    assert len(null.mean) == TRUSTED


def test_too_few_simulated_requests_and_no_trusted_examples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sets=10 simulated requests are too few for rate=0\.05; raise sets"):
        SetLevel(sets=10)
    with pytest.raises(UserError, match="there are none"):
        FILTER.review(replace(seen(0), trusted=bed(0).trusted[:0]), torch.arange(5))


def test_cumulative_sums_find_what_is_split_over_many_batches() -> None:
    """20 requests that serve one target, two at a time among six random ones: few batches show them, their sum does.

    Both tests accuse 5% of sequences of 10 random batches, as 1000 simulated sequences say.
    """
    length, bad, cover, drift, order = 10, 2, 6, 0.25, generator(0, "split")
    null = FILTER.null(seen(0), bad + cover)

    def standardised(sequences: Tensor) -> Tensor:
        return null.standardised(effects(0)[sequences].sum(-2))

    drawn = torch.stack([torch.randperm(TRAINING, generator=order)[: length * (bad + cover)] for _ in range(1000)])
    z = standardised(drawn.reshape(-1, length, bad + cover)).transpose(0, 1)  # (10, 1000, 500)
    alone = calibrated_threshold(z.abs().amax((0, 2)), ALPHA)
    together = calibrated_threshold(cusum(z, drift).amax((0, 2)), ALPHA)
    caught, targets = {"alone": 0, "together": 0}, range(0, TRUSTED, 25)
    for target in targets:
        useful = effects(0)[:, target].argsort()[: bad * length][torch.randperm(bad * length, generator=order)]
        others = torch.randperm(TRAINING, generator=order)
        others = others[~torch.isin(others, useful)][: cover * length]
        live = standardised(torch.cat([useful.reshape(length, bad), others.reshape(length, cover)], dim=1))
        caught["alone"] += bool((live.abs() > alone).any())
        caught["together"] += first_alarm(cusum(live, drift), together) is not None
    print(caught, "of", len(targets))
    assert caught["together"] >= 0.8 * len(targets)
    assert caught["alone"] <= 0.5 * caught["together"]
