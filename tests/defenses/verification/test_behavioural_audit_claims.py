"""How much an audit of compliance can tell, and what it shows of retained records, on the Gaussian bed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from data.randomness import generator
from defenses.verification.behavioural_audit import BehaviouralAudit, trained
from metrics.transcripts import Worlds, coupling, discriminating, fitted, held_out, log_odds
from models.curvature import gauss_newton
from models.direct import curvature_matrix
from models.gradients import gradient_matrix
from models.victim import ModelStack, unflatten
from tests.defenses.verification.test_behavioural_audit import NEWTON, bed, bed_data, case_of
from tests.testbed import TRAINING, Testbed


@pytest.mark.claims
def test_less_of_the_step_is_harder_to_tell_from_all_of_it_and_the_audit_learns_of_retained_records() -> None:
    """30 deleted of 300, Newton steps, 32 models fitted and 150 counted; means over 10 draws of queries and 3 beds.

    J is of the retained record with the largest kappa. Beds differ by up to .2 in alpha + alpha', so that the mean of
    three is good to about .07; differences between settings on the same models are much finer than that.
    """
    beds = [_trade_off(bed(seed), seed) for seed in range(3)]
    mean = {key: sum(each[key] for each in beds) / 3 for key in beds[0]}
    for key in beds[0]:
        print(*key, [round(each[key], 3) for each in beds], round(mean[key], 3))
    for eta, error, in_sample in ((0.1, 0.33, 0.07), (0.5, 0.59, 0.32), (0.9, 0.91, 0.85)):
        assert mean["error", eta, 50] == pytest.approx(error, abs=0.1)
        assert mean["error in sample", eta, 50] == pytest.approx(in_sample, abs=0.1)  # as if the auditor knew more
        assert mean["error", eta, 50] < mean["error", eta, 10] < mean["error", eta, 1]
        assert mean["J", eta, 50] > mean["floor", eta, 50] > 0
    assert mean["error", 0.1, 50] + 0.1 < mean["error", 0.5, 50] < mean["error", 0.9, 50] - 0.1
    assert mean["error best", 0.5, 50] < mean["error", 0.5, 10] - 0.05  # ten of fifty are worth more than any ten


def _trade_off(of: Testbed, seed: int) -> dict[tuple[str, float, int], float]:
    deleted = torch.randperm(TRAINING, generator=generator(seed, "deleted"))[:30]
    case = case_of(bed_data(of), of.task, of.victim, deleted, NEWTON)
    left = BehaviouralAudit(worlds=182, share=0.5)._left_out(case)
    pairs = list(trained(case, left))
    before, after = (torch.cat([models.flat() for models in each]) for each in zip(*pairs, strict=True))
    kappa = _kappa(of, deleted, case.retained)[0]
    print(f"kappa median {kappa.median():.4f}, 99% {kappa.quantile(0.99):.3f}, largest {kappa.max():.3f}")
    out, fit = left[:, case.retained[kappa.argmax()]], torch.arange(182) < 32
    found: dict[tuple[str, float, int], float] = {}
    for eta in (0.1, 0.5, 0.9):
        whole = Worlds(_answers(of, after), _answers(of, before + eta * (after - before)))
        for draw in range(10):
            order = torch.randperm(900, generator=generator(seed, "queries", draw))
            for count in (1, 10, 50):
                worlds = whole.at(order[:count])
                error, sampled, best = _errors(worlds, fit, draw)
                known, known_in_sample, _ = _advantages(worlds.honest, out, fit, draw)
                values = {"error": error, "error in sample": sampled, "error best": best}
                values |= {"J": known, "J in sample": known_in_sample}
                values |= {"J dishonest": _advantages(worlds.dishonest, out, fit, draw)[0]}
                values |= {"floor": float(kappa.max()) / (1 - eta) * (1 - error)}
                for name, value in values.items():
                    found[name, eta, count] = found.get((name, eta, count), 0.0) + value / 10
    return found


def _errors(worlds: Worlds, fit: Tensor, seed: int, others: Worlds | None = None) -> tuple[float, float, float]:
    """alpha + alpha' on models that were not fitted, on samples of the fit, and at the 10 best queries of the fit."""
    inside, outside = (worlds.rows(rows, rows) for rows in (fit, ~fit)) if others is None else (worlds, others)
    test = fitted(inside)
    sampled = [
        w.mean + w.root * torch.randn(2000, len(w.mean), generator=generator(seed, "in sample"), dtype=torch.float64)
        for w in (test.honest, test.dishonest)
    ]
    best = discriminating(inside, 10)
    tests = ((test, outside), (test, Worlds(*sampled)), (fitted(inside.at(best)), outside.at(best)))
    return tuple(1 - held_out(of, on).advantage for of, on in tests)  # type: ignore[return-value]


def _advantages(answers: Tensor, out: Tensor, fit: Tensor, seed: int) -> tuple[float, float, float]:
    """The same as J, for a record that the models in `out` never saw."""
    inside, outside = (Worlds(answers[rows & out], answers[rows & ~out]) for rows in (fit, ~fit))
    return tuple(1 - error for error in _errors(inside, fit, seed, outside))  # type: ignore[return-value]


def _kappa(of: Testbed, deleted: Tensor, retained: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """kappa of retained records (m,) at the victim, the step that forgets (p,), and the step without each (m, p)."""
    g = gradient_matrix(of.victim, of.task.records) / TRAINING
    nothing = torch.zeros(TRAINING, dtype=torch.float64)
    h = curvature_matrix(gauss_newton, of.victim, of.task.records, nothing, of.task.training.weight_decay)
    step = torch.linalg.solve(h, g[deleted].sum(0))
    return coupling(g[retained] @ step, g[deleted].sum(0) @ step), step, torch.linalg.solve(h, g[retained].T).T


def _answers(of: Testbed, flat: Tensor) -> Tensor:
    """Log-odds at the test points of the models with the parameters `flat` (m, p)."""
    logits = ModelStack(of.victim.module, unflatten(flat, of.victim.moving), {}).logits(of.test.x)
    return log_odds(logits.softmax(-1), of.test.y)


@pytest.mark.claims
def test_queries_that_show_compliance_show_a_retained_record_in_proportion_to_its_coupling() -> None:
    """In the linear regime: half the L1 distance of posteriors, 40 records from the largest kappa to the smallest.

    The slope of what z changes on what compliance changes, over the tenth of the queries that show most of the latter,
    against kappa: proportional with a factor between 1.2 and 2.3, but never equal to it.
    """
    for seed in range(3):
        of = bed(seed)
        deleted = torch.randperm(TRAINING, generator=generator(seed, "deleted"))[:30]
        kept = torch.ones(TRAINING, dtype=torch.bool).index_fill(0, deleted, False).nonzero()[:, 0]
        kappa, step, own = _kappa(of, deleted, kept)
        chosen = kappa.argsort(descending=True)[torch.linspace(0, len(kept) - 1, 40).long()]
        without = of.victim.moved(step + own[chosen])
        honest, dishonest = (of.victim.moved(each[None]).logits(of.test.x).softmax(-1) for each in (step, 0 * step))
        compliance = (honest - dishonest)[0].abs().sum(1) / 2
        curiosity = (without.logits(of.test.x).softmax(-1) - honest).abs().sum(2) / 2
        top = compliance.topk(len(compliance) // 10).indices
        slopes = (curiosity[:, top] @ compliance[top]) / compliance[top].square().sum()
        factor = float(slopes @ kappa[chosen] / kappa[chosen].square().sum())
        correlation = float(torch.corrcoef(torch.stack([slopes, kappa[chosen]]))[0, 1])
        print(f"slope {factor:.2f} kappa, correlation {correlation:.2f}")
        assert 1.2 < factor < 2.3
        assert correlation > 0.7
