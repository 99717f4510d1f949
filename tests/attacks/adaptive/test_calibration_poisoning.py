"""Which records poison a calibration, that nothing else names them, and what the threshold becomes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attacks.adaptive.calibration_poisoning import CalibrationPoisoning
from attacks.adaptive.none import NotAdaptive
from data.errors import UserError
from defenses.filters.influence import Influence
from models.gradients import gradient_norms
from tests.attacks.adaptive.played import SIZE, crafted, knowing, outcome
from tests.attacks.checks import bed, opened

S1, S8 = Influence(score="S1"), Influence(score="S8")


def test_the_poison_has_the_largest_gradients_and_no_request_names_it() -> None:
    of, strategy = bed(0), CalibrationPoisoning(share=0.1)
    goals = of.goals(of.targets(3))
    service, attacker = knowing(of, S1, goals)
    poison = strategy.poison(service, attacker)
    assert len(poison) == round(0.1 * SIZE) == 6
    norms = gradient_norms(of.victim, of.task.records)
    others = torch.ones(300, dtype=torch.bool)
    others[poison] = False
    assert norms[poison].min() >= norms[others].max()
    left = strategy.narrow(service, attacker, 15, None)
    assert torch.equal(left.pool, others.nonzero()[:, 0])
    assert torch.equal(left.owned.x, of.task.records.x[left.pool])
    named = {i for each in crafted(of, strategy, S1, goals) for i in each.request.indices}
    assert not named & set(poison.tolist())


def test_gradients_are_computed_once_for_a_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    of, strategy, asked = bed(0), CalibrationPoisoning(), []
    service, attacker = knowing(of, S1, of.goals(of.targets(1)))
    service = replace(service, victims=(of.victim.clone(),))

    def counted(victim, records):
        asked.append(len(records))
        return gradient_norms(victim, records)

    monkeypatch.setattr("attacks.adaptive.calibration_poisoning.gradient_norms", counted)
    for _ in range(2):
        strategy.poison(service, attacker)
        strategy.narrow(service, attacker, 15, None)
    assert asked == [300]
    fewer = replace(attacker, pool=attacker.pool[1:], owned=attacker.owned[1:])
    assert torch.equal(strategy.poison(service, fewer), CalibrationPoisoning().poison(opened(of), fewer))
    assert asked == [300, 299, 299]


def test_a_norm_cap_leaves_the_poison_what_it_is() -> None:
    of = bed(0)
    service, attacker = knowing(of, S1, of.goals(of.targets(1)))
    strategy = CalibrationPoisoning()
    poison = strategy.poison(service, attacker)
    capped = strategy.narrow(service, attacker, 15, 0.7)
    assert not torch.isin(poison, capped.pool).any()
    assert len(capped.pool) == 210  # all of the poison lies above the cap
    with pytest.raises(UserError, match="sets 54 records aside"):
        CalibrationPoisoning(share=0.9).narrow(service, attacker, 250, None)


def test_the_threshold_on_norms_is_that_of_the_poison() -> None:
    """S8 needs no trial run: of 8 x 60 scores more than 5% are the poison's, and the threshold is one of these."""
    of = bed(0)
    service, attacker = knowing(of, S8, of.goals(of.targets(1)))
    poison, knows = CalibrationPoisoning().poison(service, attacker), attacker.knows
    assert knows is not None
    norms = gradient_norms(of.victim, of.task.records)
    clean = knows.calibrated().threshold  # type: ignore[attr-defined]
    dirty = knows.calibrated(poison).threshold  # type: ignore[attr-defined]
    assert norms[poison].min() <= dirty
    assert clean < dirty


def test_more_passes_the_filter() -> None:
    plain, poisoned = outcome(NotAdaptive(), S1), outcome(CalibrationPoisoning(), S1)
    print("poisoned", poisoned)
    assert poisoned.filtered > plain.filtered + 0.2
    assert poisoned.rejected < plain.rejected
    assert poisoned.control < poisoned.filtered
