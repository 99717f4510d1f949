"""Sums over the batches of a sequence, against dense algebra and by hand, and what is quarantined."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from data.errors import UserError
from data.randomness import generator
from defenses.defense import Context, Verdict, reviewed
from defenses.filters.cusum import Cusum, Sums, standardised_in_turn
from metrics.cusum import cusum
from metrics.detection import calibrated_threshold
from models.solver import Solver
from tests.attacks.checks import bed, opened
from tests.defenses.filters.test_set_level import effects, seen
from tests.testbed import LAMBDA, TRAINING
from unlearning.service import OpenService
from unlearning.turns import carried_on

FILTER = Cusum(length=3, sequences=1000, points=100, solver=Solver(method="auto", tolerance=1e-10))


def sequences(name: str, count: int, length: int, size: int) -> Tensor:
    rng = generator(0, name)
    drawn = torch.stack([torch.randperm(TRAINING, generator=rng)[: length * size] for _ in range(count)])
    return drawn.reshape(count, length, size)


def in_turn(test: Cusum, root: OpenService, batches: Tensor, first: Context) -> list[Verdict]:
    """The verdicts on a sequence; what is accepted is unlearned before the next batch."""
    provider, remembered, verdicts = root, None, []
    for batch in batches:
        [after] = carried_on(root, [provider], [batch])
        context = replace(
            first, task=provider.task, victim=provider.victims[0], candidate=after.victims[0], remembered=remembered
        )
        verdicts.append(reviewed(test, context, batch))
        remembered = verdicts[-1].remembered
        [provider] = carried_on(root, [provider], [verdicts[-1].deleted(batch)])
    return verdicts


def test_simulated_sequences_are_standardised_with_what_is_left() -> None:
    """Against a loop that takes records out one batch after the other."""
    a, batches = effects(0)[:, :7].T, sequences("small", 4, 3, 50)
    found = standardised_in_turn(a, batches)
    for k, sequence in enumerate(batches):
        left = torch.ones(TRAINING, dtype=torch.bool)
        for b, batch in enumerate(sequence):
            n, now = int(left.sum()), a[:, left]
            deviation = (50 * (1 - 50 / n)) ** 0.5 * now.std(1)
            expected = (a[:, batch].sum(1) - 50 * now.mean(1)) / deviation
            assert (found[b, k] - expected).abs().max() < 1e-9
            left[batch] = False


def test_a_threshold_is_an_order_statistic_of_simulated_paths() -> None:
    test, context = replace(FILTER, points=20), seen(0)
    most = test.of_random(context, 20)
    assert len(most) == 1000
    assert test.of_random(context, 20) is most
    rng = generator(0, "random sets")
    drawn = torch.stack([torch.randperm(TRAINING, generator=rng)[:60] for _ in range(1000)]).reshape(1000, 3, 20)
    expected = cusum(standardised_in_turn(effects(0)[:, :20].T, drawn), 0.5).amax((0, 2))
    assert (most - expected).abs().max() < 1e-8
    verdict = test.review(context, torch.arange(20))
    assert verdict.threshold == calibrated_threshold(most, 0.05)


def test_a_path_is_the_recursion_at_the_models_as_they_become() -> None:
    """Three batches against dense algebra: curvature, gradients and moments anew at each retrained model."""
    of, batches = bed(0), sequences("path", 1, 3, 20)[0]
    never = replace(FILTER, points=10, rate=0.001)
    root = opened(of)
    verdicts = in_turn(never, root, batches, seen(0))
    up = down = torch.zeros(10, dtype=torch.float64)
    provider = root
    for batch, verdict in zip(batches, verdicts, strict=True):
        z = by_hand(provider, batch, 10)
        up, down = (up + z - 0.5).clamp_min(0), (down - z - 0.5).clamp_min(0)
        path = verdict.remembered
        assert isinstance(path, Sums)
        assert (path.up - up).abs().max() < 1e-6
        assert (path.down - down).abs().max() < 1e-6
        assert float(verdict.scores.max()) == pytest.approx(float(torch.maximum(up, down).max()), abs=1e-6)
        assert int((verdict.scores > 0).sum()) == 5
        [provider] = carried_on(root, [provider], [batch])
    assert path.batches == 3


def by_hand(provider: OpenService, batch: Tensor, points: int) -> Tensor:
    """z (t,) of the margins of the labels that the first victim predicted, with softmax regression written out."""
    of, victim, gone = bed(0), provider.victims[0], provider.task.forgotten
    gone = torch.zeros(TRAINING, dtype=torch.float64) if gone is None else gone
    x, trusted = (torch.cat([e.x, torch.ones(len(e), 1)], dim=1) for e in (of.task.records, of.trusted[:points]))
    p = victim.probabilities(of.task.records.x)
    curved = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    hessian = torch.einsum("n,nab,ni,nj->aibj", 1 - gone, curved, x, x).reshape(33, 33)
    hessian += LAMBDA * torch.eye(33, dtype=torch.float64)
    own = one_hot(of.victim.logits(of.trusted.x[:points]).argmax(-1), 3).double()
    other = one_hot(victim.logits(of.trusted.x[:points]).masked_fill(own > 0, -torch.inf).argmax(-1), 3).double()
    slopes = ((own - other)[:, :, None] * trusted[:, None, :]).reshape(points, 33)
    g = ((p - one_hot(of.task.records.y, 3))[:, :, None] * x[:, None, :]).reshape(TRAINING, 33)
    a = g @ torch.linalg.solve(hessian, slopes.T)
    left, size = (gone == 0).nonzero()[:, 0], len(batch)
    deviation = (size * (1 - size / len(left))) ** 0.5 * a[left].std(0)
    return (a[batch].sum(0) - size * a[left].mean(0)) / deviation


def test_what_is_quarantined_moves_nothing() -> None:
    """A batch that is flagged leaves a path of what was accepted of it alone, and the next goes on from there."""
    useful = effects(0)[:, 3].argsort()[:20]
    strict = replace(FILTER, share=1.0)
    verdict = in_turn(strict, opened(bed(0)), useful[None], seen(0))[0]
    assert not bool(verdict.accepted.any())
    path = verdict.remembered
    assert isinstance(path, Sums)
    assert float(path.up.max()) == float(path.down.max()) == 0.0
    quarter = in_turn(FILTER, opened(bed(0)), useful[None], seen(0))[0]
    assert int((~quarter.accepted).sum()) == 5
    assert isinstance(quarter.remembered, Sums)
    assert quarter.remembered.value < float(quarter.scores.max())


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(ValueError, match="sequences=10 simulated sequences are too few"):
        Cusum(sequences=10)
    with pytest.raises(UserError, match=r"comes in 4 batches, and defense\.length=3"):
        FILTER.check_sequence(4, 10, 300)
    with pytest.raises(UserError, match=r"lower defense\.length"):
        FILTER.review(seen(0), torch.arange(150))
