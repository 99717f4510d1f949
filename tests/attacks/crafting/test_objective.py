from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.crafting.functionals import Confidence, ConformalSetSize, LogitGap
from attacks.crafting.objective import CandidatePredictions, MisclassificationObjective, UncertaintyObjective
from data.randomness import generator

M, S, T, R, K = 4, 2, 3, 20, 3


def predictions() -> CandidatePredictions:
    rng = generator(0, "predictions")

    def log_p(*shape: int) -> Tensor:
        return torch.randn(*shape, K, generator=rng, dtype=torch.float64).log_softmax(-1)

    return CandidatePredictions(
        log_p(M, S, T),
        torch.randint(K, (M, T), generator=rng),
        torch.tensor([1.0, -1.0, 1.0, -1.0]).double(),
        log_p(M, S, R),
        torch.randint(K, (R,), generator=rng),
        torch.randint(K, (R,), generator=rng),
        torch.tensor(1.1, dtype=torch.float64),
    )


def margin(p: Tensor, label: int) -> Tensor:
    return p[label].log() - p[torch.arange(K) != label].log().max()


def test_uncertainty_loss_is_its_formula() -> None:
    """-dir sum u + keep sum [kappa - m]_+ + keep_reference mean [kappa - m]_+, on averaged predictions."""
    candidates = predictions()
    found = UncertaintyObjective(Confidence(), keep=5, keep_reference=2, kappa=0.3).loss(candidates)
    for j in range(M):
        p, q = candidates.log_p[j].exp().mean(0), candidates.reference[j].exp().mean(0)
        u = sum(1 - p[t, candidates.labels[j, t]] for t in range(T))
        kept = sum((0.3 - margin(p[t], int(candidates.labels[j, t]))).clamp_min(0) for t in range(T))
        reference = sum((0.3 - margin(q[r], int(candidates.reference_labels[r]))).clamp_min(0) for r in range(R)) / R
        assert abs(float(-candidates.direction[j] * u + 5 * kept + 2 * reference - found[j])) < 1e-12


def test_feasible_first_compares_the_effect_among_kept_labels() -> None:
    candidates = predictions()
    strict = UncertaintyObjective(LogitGap(), 5, 1, 0.05)
    loose = replace(strict, feasible_first=False)
    kept = (candidates.log_p.exp().mean(1).argmax(-1) == candidates.labels).all(-1)
    assert torch.equal(strict.feasible(candidates), kept)
    assert not kept.all()
    assert loose.feasible(candidates).all()
    assert torch.equal(strict.rank(candidates), strict.effect(candidates))
    assert torch.equal(loose.rank(candidates), loose.loss(candidates))


def test_calibrated_functionals_get_the_true_labels_of_the_reference() -> None:
    candidates = predictions()
    effect = UncertaintyObjective(ConformalSetSize(), 0, 0, 0).effect(candidates)
    calibration = candidates.reference, candidates.reference_truth
    direct = ConformalSetSize()(candidates.log_p, candidates.labels, calibration).sum(-1)
    assert torch.equal(effect, -candidates.direction * direct)


@pytest.mark.parametrize("stealth", [0.0, 3.0])
def test_misclassification_loss_is_its_formula(stealth: float) -> None:
    """sum [m + kappa]_+ + stealth [R_ref - (1 + tolerance) R_ref(victim)]_+."""
    candidates, objective = predictions(), MisclassificationObjective(stealth, kappa=0.1, tolerance=0.01)
    for j in range(M):
        p, q = candidates.log_p[j].exp().mean(0), candidates.reference[j].exp().mean(0)
        hinge = sum((margin(p[t], int(candidates.labels[j, t])) + 0.1).clamp_min(0) for t in range(T))
        loss = -q[torch.arange(R), candidates.reference_truth].log().mean()
        expected = hinge + stealth * (loss - 1.01 * 1.1).clamp_min(0)
        assert abs(float(expected - objective.loss(candidates)[j])) < 1e-12
    assert objective.feasible(candidates).all()
    assert torch.equal(objective.rank(candidates), objective.loss(candidates))
