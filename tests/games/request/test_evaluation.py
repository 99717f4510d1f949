"""The judge against its parts: which model belongs to which request, and what is measured on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import games.request.evaluation
from experiments.play.setup import prepare
from games.request.evaluation import Judge, on_targets
from metrics.classification import accuracy
from metrics.uncertainty import ece
from models.victim import ModelStack
from tests.experiments.games import config


def test_rows_keep_their_order_and_empty_ones_the_victim(tmp_path: Path) -> None:
    setup = prepare(config(tmp_path, "unlearning=first_order"))
    victim = setup.victim(0)
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
    victim = setup.victim(0)
    judge = Judge(setup.task, setup.procedure, setup.data)
    p = judge.predict(judge.unlearn([victim], [0], judge.rows([torch.empty(0, dtype=torch.long)])))[0]
    n = len(setup.data.test)
    assert len(p) == n + len(setup.data.conformal_trusted)
    measured = {name: values[0] for name, values in judge.model_levels(p[None]).items()}
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


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_batches_of_any_size_give_what_all_requests_together_do(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = prepare(config(tmp_path, "unlearning=first_order"))
    victim = setup.victim(0)
    judge = Judge(setup.task, setup.procedure, setup.data)
    groups = {"after": [torch.tensor([i, i + 1]) for i in range(4)], "none": [], "random": [torch.empty(0).long()] * 3}
    monkeypatch.setattr(games.request.evaluation, "models_at_once", lambda _: at_once)
    held: list[int] = []
    unlearn = Judge.unlearn

    def counted(self: Judge, *arguments: Any) -> list[ModelStack]:
        models = unlearn(self, *arguments)
        held.append(len(models[0]))
        return models

    monkeypatch.setattr(Judge, "unlearn", counted)
    seen: list[tuple[slice, Tensor]] = []
    look = {"after": lambda models, which, p: seen.append((which, models[0].flat()))}
    found = judge.after([victim], [0], groups, look)
    assert max(held) == min(at_once, 7)
    [together] = unlearn(judge, [victim], [0], judge.rows(groups["after"]))
    torch.testing.assert_close(found["after"], judge.predict([together]), rtol=1e-5, atol=1e-6)
    assert torch.equal(found["random"], judge.predict([victim.copies(3)]))
    assert found["none"].shape == (0, *found["after"].shape[1:])
    assert [i for which, _ in seen for i in range(which.start, which.stop)] == [0, 1, 2, 3]
    torch.testing.assert_close(torch.cat([flat for _, flat in seen]), together.flat(), rtol=1e-5, atol=1e-6)


def test_unseen_groups_are_looked_at_and_not_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = prepare(config(tmp_path, "unlearning=first_order"))
    victim = setup.victim(0)
    judge, seen = Judge(setup.task, setup.procedure, setup.data), list[int]()
    monkeypatch.setattr(Judge, "predict", None)
    look = {"calibration": lambda models, which, p: seen.append(len(models[0]))}
    found = judge.after([victim], [0], {"calibration": [torch.tensor([1])] * 2}, look, unseen=("calibration",))
    assert seen == [2]
    assert len(found["calibration"]) == 0


def test_a_request_of_nothing_draws_anew_with_another_seed(tmp_path: Path) -> None:
    setup = prepare(config(tmp_path, "unlearning=retrain"))
    victim = setup.victim(0)
    judge, nothing = Judge(setup.task, setup.procedure, setup.data), {"nothing": [torch.empty(0).long()]}
    before = judge.predict([victim.copies(1)])
    assert torch.equal(judge.after([victim], [1], nothing)["nothing"], before)
    assert not torch.allclose(judge.after([victim], [1], nothing, empty_too=True)["nothing"], before, atol=1e-3)
