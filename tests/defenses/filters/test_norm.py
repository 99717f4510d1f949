"""The norm of a requested record's gradient, of the copy where that is unlearned, and what attacks it sees."""

from __future__ import annotations

from dataclasses import replace

import torch

from attacks.crafting.norm_cap import below_norm_quantile
from data.examples import Examples
from defenses.defense import Context
from defenses.filters.influence import Influence
from defenses.filters.norm import Norm
from metrics.detection import auroc
from models.gradients import per_example_gradients
from tests.attacks.checks import bed, opened
from tests.defenses.filters.batches import attacked, benign, context


def test_the_score_is_the_length_of_the_gradient() -> None:
    of, batch = bed(0), benign(0, "scores", 1, 15)[0]
    seen = context(of, batch)
    expected = per_example_gradients(of.victim, of.task.records[batch]).norm(dim=1)
    assert (Norm().scores(seen, batch) - expected).abs().max() < 1e-12
    assert torch.equal(Norm().scores(seen, batch), Influence(score="S8").scores(seen, batch))
    copies = Examples(of.task.records.x[batch] * 3, of.task.records.y[batch])
    sent = replace(seen, submitted=copies)
    expected = per_example_gradients(of.victim, copies).norm(dim=1)
    assert (Norm().scores(sent, batch) - expected).abs().max() < 1e-12


def test_it_reviews_without_a_trial_run() -> None:
    """The verdict does not depend on the model after the batch."""
    found = attacked(0, None)
    verdict = Norm().review(found.context(0), found.batches[0])
    still = Context(found.of.task, found.of.victim, found.of.victim, found.of.trusted, found.calibration)
    assert torch.equal(verdict.accepted, Norm().review(still, found.batches[0]).accepted)
    assert not bool(verdict.accepted.all())


def test_an_attack_that_caps_its_norms_is_not_seen() -> None:
    """Records above the 70% quantile are what the filter rejects, and that attack names none of them."""
    scores = {}
    for cap in (None, 0.7):
        found = attacked(0, cap)
        each = [Norm().scores(found.context(i), batch) for i, batch in enumerate(found.batches)]
        scores[cap] = auroc(torch.cat(each), found.malicious.repeat(len(found.batches))).value
        caught = [~Norm().review(found.context(i), b).accepted[found.malicious] for i, b in enumerate(found.batches)]
        if cap is not None:
            allowed = below_norm_quantile(opened(found.of), found.of.attacker(), cap, 15).pool
            assert all(bool(torch.isin(batch[found.malicious], allowed).all()) for batch in found.batches)
            assert not bool(torch.cat(caught).any())
    print("AUROC by cap", scores)
    assert scores[None] > 0.75 > 0.7 > scores[0.7]
