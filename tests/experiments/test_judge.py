"""The judge against its parts: which model belongs to which request, and what is measured on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.choose import learn
from experiments.judge import Judge, on_targets
from experiments.setup import prepare
from metrics.classification import accuracy
from metrics.uncertainty import ece
from tests.experiments.games import config


def test_rows_keep_their_order_and_empty_ones_the_victim(tmp_path: Path) -> None:
    setup = prepare(config(tmp_path, "unlearning=first_order"))
    victim = learn(setup, 0)
    judge = Judge(setup.task, setup.procedure, setup.data)
    requests = [torch.tensor([1, 2]), torch.empty(0, dtype=torch.long), torch.tensor([5])]
    rows = judge.rows(requests)
    assert rows.sum(1).tolist() == [2, 0, 1]
    [models] = judge.unlearn([victim], [0], rows)
    assert torch.equal(models[1].flat(), victim.flat())
    for i in (0, 2):
        alone = setup.procedure.forget(setup.task, victim, rows[i : i + 1], 0)[0]
        torch.testing.assert_close(models[i].flat(), alone.flat())
    [same] = judge.unlearn([victim], [0], rows[1:2])
    assert torch.equal(same[0].flat(), victim.flat())


def test_model_level_metrics_are_those_of_the_test_set(tmp_path: Path) -> None:
    setup = prepare(config(tmp_path))
    victim = learn(setup, 0)
    judge = Judge(setup.task, setup.procedure, setup.data)
    p = judge.predict(judge.unlearn([victim], [0], judge.rows([torch.empty(0, dtype=torch.long)])))[0]
    n = len(setup.data.test)
    assert len(p) == n + len(setup.data.conformal_trusted)
    measured = judge.model_level(p)
    mine = victim.probabilities(setup.data.test.x)
    assert measured["accuracy"] == accuracy(mine, setup.data.test.y).value
    assert measured["ece"] == pytest.approx(ece(mine, setup.data.test.y).value, abs=1e-6)
    assert 0.8 < measured["conformal_coverage"] <= 1
    assert sum(judge.reliability([p])["count"]) == n
    assert sum(judge.reliability([p, p])["count"]) == 2 * n


def test_each_target_is_seen_by_its_own_model() -> None:
    p = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.2, 0.8], [0.3, 0.7]]])  # model, example, class
    seen = on_targets(p, torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert seen["confidence"] == pytest.approx([0.9, 0.3])
    assert seen["kept"] == [1.0, 0.0]
