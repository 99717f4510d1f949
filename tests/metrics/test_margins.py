"""Margins against their closed form, and where a softmax would have lost them."""

from __future__ import annotations

import math

import pytest
import torch

from metrics.margins import margins


def test_they_are_the_log_odds_of_the_label() -> None:
    logits = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 3, 0])
    p = logits.softmax(-1)[:, torch.arange(5), y]
    found = margins(logits, y)
    assert found.shape == (3, 5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (p / (1 - p)).log().float())
    assert torch.equal(found[1], margins(logits[1], y))


def test_two_classes_differ_by_their_logits() -> None:
    logits = torch.tensor([[2.0, -1.5], [0.25, 4.0]])
    assert margins(logits, torch.tensor([0, 0])).tolist() == [3.5, -3.75]


def test_a_sure_model_keeps_its_margin() -> None:
    """In float32 its probability is 1, and the log-odds of that infinite."""
    logits = torch.tensor([[100.0, 0.0, 0.0]])
    assert logits.softmax(-1)[0, 0] == 1
    assert margins(logits, torch.tensor([0])).item() == pytest.approx(100 - math.log(2), rel=1e-7)
    assert margins(logits, torch.tensor([1])).item() == pytest.approx(-100, rel=1e-7)
    assert margins(torch.tensor([[1e4, 0.0]]), torch.tensor([1])).item() == -1e4
