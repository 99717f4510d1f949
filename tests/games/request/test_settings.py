"""The settings of the request game: what they refuse, and how many records the attacker may name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from games.request.settings import StreamSettings, TargetSettings, pool_size


def test_directions_of_the_targets() -> None:
    assert TargetSettings().directions == ("over", "under")
    assert TargetSettings(direction="under").directions == ("under",)
    with pytest.raises(ValueError, match="empty band"):
        TargetSettings(over=(0.6, 0.6))


def test_a_stream_mixes_three_benign_requests_by_default() -> None:
    assert StreamSettings().benign_per_malicious == 3


def test_pool_size() -> None:
    attack, stream = SimpleNamespace(owned=0.25, pool=None), StreamSettings(reserved=0.2)
    assert pool_size(attack, stream, 1000) == 250  # type: ignore[arg-type]
    attack.pool = 100
    assert pool_size(attack, stream, 1000) == 100  # type: ignore[arg-type]
    attack.pool = 900
    assert pool_size(attack, stream, 1000) == 250  # type: ignore[arg-type]
    attack.owned = 1.0
    assert pool_size(attack, stream, 1000) == 800  # type: ignore[arg-type]
