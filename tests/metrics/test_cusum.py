"""Cumulative sums against their recursion, and when they raise an alarm."""

from __future__ import annotations

import pytest
import torch

from metrics.cusum import cusum, first_alarm


@pytest.mark.parametrize("drift", [0.0, 0.5, 2.0])
def test_the_path_follows_its_recursion(drift: float) -> None:
    z = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path, up, down = cusum(z, drift), torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for time, now in enumerate(z):
        up, down = (up + now - drift).clamp_min(0), (down - now - drift).clamp_min(0)
        assert (path[time] - torch.maximum(up, down)).abs().max() < 1e-12
    assert torch.equal(cusum(-z, drift), path)
    assert torch.equal(cusum(z[:, 0], drift), path[:, 0])


def test_a_shift_adds_up_and_no_shift_does_not() -> None:
    """Steps of 1 against a drift of 0.5 rise by a half each; steps within the drift never leave 0."""
    ones = torch.ones(10, dtype=torch.float64)
    assert cusum(ones).tolist() == [0.5 * k for k in range(1, 11)]
    assert cusum(0.5 * ones).tolist() == [0.0] * 10
    assert cusum(torch.tensor([3.0, -9.0, 3.0])).tolist() == [2.5, 8.5, 5.0]


def test_the_first_alarm() -> None:
    path = cusum(torch.ones(10, 2, dtype=torch.float64))
    assert first_alarm(path, 1.5) == 3
    assert first_alarm(path[:, 0], 1.5) == 3
    assert first_alarm(path, 5.0) is None


def test_a_negative_drift_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        cusum(torch.ones(3), -0.1)
    with pytest.raises(ValueError, match="at least 0"):
        cusum(torch.ones(3), float("nan"))
