"""What all filters with a threshold promise: the rate at which benign requests are rejected, and a clear sentence."""

from __future__ import annotations

import pytest
import torch

from data.errors import UserError
from data.randomness import generator
from defenses.defense import Calibrated, Calibration, Context
from defenses.filters.influence import Influence
from defenses.filters.norm import Norm
from defenses.filters.scored import Scored
from defenses.filters.similarity import Similarity
from metrics.detection import robust_threshold
from tests.attacks.checks import bed
from tests.defenses.filters.batches import ALPHA, calibrated
from tests.testbed import TRAINING

FILTERS = (Norm(), Similarity(), Influence(score="S6"), Influence(score="S7", preconditioner="identity"))


@pytest.mark.parametrize("defense", FILTERS, ids=lambda each: getattr(each, "score", each.name))
def test_benign_streams_are_rejected_at_the_promised_rate(defense: Scored) -> None:
    """100 records calibrate, the 200 others are asked for: within alpha +- 3 standard errors, over eight draws.

    Scores are exchangeable, so that the error has a part of the calibration and one of the stream.
    """
    rejected = []
    for seed in range(8):
        of = bed(seed)
        order = torch.randperm(TRAINING, generator=generator(seed, "apart"))
        batches = [Calibration(part, of.victim) for part in order[:100].split(50)]
        context = Context(of.task, of.victim, of.victim, of.trusted, batches)
        threshold = defense.threshold(context)
        rejected += [(defense.scores(context, part) > threshold).double().mean() for part in order[100:].split(50)]
    rate = float(torch.stack(rejected).mean())
    error = (ALPHA * (1 - ALPHA) * (1 / 800 + 1 / 1600)) ** 0.5
    print(f"rejected {rate:.4f} +- {error:.4f}")
    assert abs(rate - ALPHA) <= 3 * error


@pytest.mark.parametrize("kind", [Norm, Similarity, Influence])
def test_the_rules_are_the_same_for_all(kind: type[Scored]) -> None:
    of = bed(0)
    batches = calibrated(of, list(torch.arange(40).split(20)))
    context = Context(of.task, of.victim, of.victim, of.trusted, batches)
    own = [Context(of.task, of.victim, each.candidate, of.trusted) for each in batches]
    scores = torch.cat([kind().scores(c, each.indices) for c, each in zip(own, batches, strict=True)])
    assert isinstance(kind(), Calibrated)
    assert kind(rate=0.1).threshold(context) == float(scores.sort().values[36])  # the 37th of 40
    assert kind(rule="robust_z").threshold(context) == robust_threshold(scores, 3.5)
    with pytest.raises(UserError, match=r"defense\.rate=0\.01 cannot be calibrated with 40 benign scores; raise"):
        kind(rate=0.01).threshold(context)
    with pytest.raises(UserError, match=r"defense\.rule=robust_z cannot be calibrated with 0"):
        kind(rule="robust_z").check_calibration(0)
