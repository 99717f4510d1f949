"""The numbers that a record has of verification errors: quantiles, distribution, and what overlaps with the log."""

from types import SimpleNamespace

import pytest
import torch

from games.verification.errors import described_errors
from proofs.replay import Replay


def replay(errors, moves=None, every=1):
    n = len(errors)
    steps = [every * (i + 1) for i in range(n)]
    return Replay(steps=steps, weights=list(errors), moves=list(moves or [1.0] * n), buffers=[0.0] * n)


class Log:
    """A log with the given batches, one a step."""

    def __init__(self, batches, every=1, n=10):
        self.batches, self.steps = batches, len(batches)
        self.header = SimpleNamespace(
            records=SimpleNamespace(n=n), every=every, is_checkpoint=lambda t: t % every == 0 or t == len(batches)
        )

    def read(self, first=0):
        for i, batch in enumerate(self.batches, start=1):
            yield SimpleNamespace(number=i, batch=torch.tensor(batch))


def test_quantiles_and_distribution():
    errors = [0.0, 1e-4, 1e-3, 1e-2]
    found = described_errors(replay(errors, [1.0, 1e-2, 1e-2, 1e-2]), SimpleNamespace(steps=4), None, torch.tensor([0]))
    assert found["all"]["p100"] == 1e-2
    assert found["all"]["zero"] == 0.25
    assert found["all"]["n"] == 4
    assert found["relative"]["p100"] == pytest.approx(1.0)
    thresholds, share = found["distribution"]["thresholds"], found["distribution"]["share"]
    assert (thresholds[0], thresholds[-1]) == (pytest.approx(1e-4), 1e-2)
    assert (share[0], share[-1]) == (0.5, 1.0)  # the exact step lies below every threshold
    assert share == sorted(share)


def test_exact_replays_have_no_thresholds():
    found = described_errors(replay([0.0, 0.0]), SimpleNamespace(steps=2), None, torch.tensor([0]))
    assert found["all"]["zero"] == 1.0
    assert found["distribution"] == {"thresholds": [], "share": []}
    assert described_errors(None, None, None, torch.tensor([0])) is None
    assert described_errors(Replay(), SimpleNamespace(steps=2), None, torch.tensor([0])) is None


def test_errors_are_split_by_what_the_log_had():
    """An interval by its own batches, and by those of the interval before it; before the first there is none."""
    log = Log([[1, 2], [3, 9], [4, 5], [9, 6]])
    found = described_errors(replay([0.1, 0.2, 0.3, 0.4]), SimpleNamespace(steps=4), log, torch.tensor([9]))
    assert found["overlap"] == 0.5
    assert (found["overlapping"]["p5"], found["overlapping"]["p100"]) == (pytest.approx(0.21), 0.4)
    assert found["other"]["p100"] == 0.3
    assert found["after_overlapping"]["n"] == 1
    assert found["after_overlapping"]["p50"] == 0.3
    assert found["after_other"]["n"] == 3


def test_intervals_of_several_steps_overlap_where_one_of_them_does():
    log = Log([[1], [9], [4], [5], [6]], every=2)
    found = described_errors(
        Replay(steps=[2, 4, 5], weights=[0.1, 0.2, 0.3], moves=[1.0] * 3, buffers=[0.0] * 3),
        SimpleNamespace(steps=5), log, torch.tensor([9]),
    )  # fmt: skip
    assert found["overlapping"]["n"] == 1
    assert found["overlapping"]["p50"] == 0.1
    assert found["after_overlapping"]["p50"] == 0.2
