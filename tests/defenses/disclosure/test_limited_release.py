"""What a policy of releases shows, and when."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from data.randomness import generator
from defenses.disclosure.limited_release import LimitedRelease
from defenses.none import NoDefense


def test_a_release_is_due_after_a_batch() -> None:
    assert [LimitedRelease(batch=3).due(pending) for pending in (1, 2, 3, 4)] == [False, False, True, True]
    assert NoDefense().due(1)


def test_rounding_comes_after_noise() -> None:
    """Noise has the size that is asked for, and rounding leaves at most half of the last decimal."""
    exact = torch.zeros(20_000, dtype=torch.float64) + 0.123456
    noisy = LimitedRelease(noise=0.01).shown(exact, generator(0, "noise"))
    assert abs(float((noisy - exact).std()) / 0.01 - 1) < 4 / (2 * 20_000) ** 0.5  # 4 standard errors
    rounded = LimitedRelease(noise=0.01, decimals=2).shown(exact, generator(0, "noise"))
    assert float((rounded - noisy).abs().max()) <= 0.005 + 1e-12
    assert torch.equal(rounded, torch.round(rounded, decimals=2))
    assert torch.equal(NoDefense().shown(exact, generator(0, "noise")), exact)
    assert torch.equal(LimitedRelease().shown(exact, generator(0, "noise")), exact)


def test_what_it_is_not_is_refused() -> None:
    for options in ({"batch": 0}, {"decimals": -1}, {"decimals": 16}, {"noise": -1.0}, {"noise": float("nan")}):
        with pytest.raises(ValidationError):
            LimitedRelease(**options)  # type: ignore[arg-type]
