"""Slow runs of the procedure are kept until what they were for is finished, and given back as they were."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from data.digits import Digits
from experiments.play.play import play_config
from games.checkpoint import Checkpointed
from models.mlp import MLP
from models.training import Training
from models.victim import Victim
from storage.store import Store
from tests.experiments.games import config
from tests.experiments.small_sweeps import records
from unlearning.procedure import Procedure, Request, Task
from unlearning.retrain import Retrain


@pytest.fixture(scope="module")
def task() -> Task:
    data = Digits(train=120, test=1377).load()
    return Task(data.train, partial(MLP, shape=data.shape, classes=10, widths=[8]), Training(epochs=2))


@pytest.fixture(scope="module")
def victim(task: Task) -> Victim:
    return Retrain().learn(task, 0)


class Counting(Procedure):
    """Retraining that counts its runs."""

    differentiable = exact = True

    def __init__(self) -> None:
        self.runs = 0

    def forget(self, *arguments: Any) -> Any:
        self.runs += 1
        return Retrain().forget(*arguments)


def rows(task: Task, *deleted: int) -> torch.Tensor:
    weights = torch.zeros(2, len(task.records))
    weights[:, list(deleted)] = 1
    return weights


def test_a_run_is_given_back_bit_by_bit(tmp_path: Path, task: Task, victim: Victim) -> None:
    procedure = Counting()
    first = Checkpointed(procedure, Store(tmp_path), {"k": 1}, slow=0.0)
    made = first.forget(task, victim, rows(task, 1, 2), 0)
    again = Checkpointed(procedure, Store(tmp_path), {"k": 1}, slow=0.0)
    back = again.forget(task, victim, rows(task, 1, 2), 0)
    assert procedure.runs == 1
    assert torch.equal(made.flat(), back.flat())
    assert list(made.parameters) == list(back.parameters)


def test_whatever_is_asked_differently_is_computed(tmp_path: Path, task: Task, victim: Victim) -> None:
    procedure = Counting()
    kept = Checkpointed(procedure, Store(tmp_path), {"k": 1}, slow=0.0)
    asked = rows(task, 1, 2)
    kept.forget(task, victim, asked, 0)
    other = Victim(victim.module, {n: v + 1 for n, v in victim.parameters.items()}, victim.buffers)
    kept.forget(task, victim, rows(task, 1, 3), 0)
    kept.forget(task, victim, asked, 1)
    kept.forget(task, other, asked, 0)
    kept.forget(task.without(Request((5,))), victim, asked, 0)
    kept.forget(task, victim, asked, 0, task.records)
    Checkpointed(procedure, Store(tmp_path), {"k": 2}, slow=0.0).forget(task, victim, asked, 0)
    assert procedure.runs == 7


def test_quick_runs_leave_nothing_and_slow_ones_are_cleared(tmp_path: Path, task: Task, victim: Victim) -> None:
    quick = Checkpointed(Retrain(), Store(tmp_path), {}, slow=60.0)
    quick.forget(task, victim, rows(task, 1), 0)
    assert not list(tmp_path.rglob("*.safetensors"))
    slow = Checkpointed(Retrain(), Store(tmp_path), {}, slow=0.0)
    slow.forget(task, victim, rows(task, 1), 0)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    slow.clear()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_game_that_was_stopped_goes_on_at_its_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A game is stopped at its 4th run of the procedure; started again, it computes only what was left."""
    import games.request.crafting
    import games.request.play

    for module in (games.request.crafting, games.request.play):
        monkeypatch.setattr(module, "Checkpointed", partial(Checkpointed, slow=0.0))
    runs: list[int] = []
    original = Retrain.forget

    def stopping(self: Retrain, *arguments: Any) -> Any:
        runs.append(len(runs))
        if len(runs) == stop:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Retrain, "forget", stopping)
    stop = -1
    play_config(config(tmp_path / "calm", "figures=false"), tmp_path / "out")
    whole = len(runs)
    assert whole > 6
    runs.clear()
    stop = 4
    with pytest.raises(KeyboardInterrupt):
        play_config(config(tmp_path, "figures=false"), tmp_path / "out")
    assert len(list((tmp_path / "store").glob("step/??/*.safetensors"))) == 3
    runs.clear()
    stop = -1
    play_config(config(tmp_path, "figures=false"), tmp_path / "out")
    assert len(runs) == whole - 3
    assert records(tmp_path / "store") == records(tmp_path / "calm" / "store")
    assert not list((tmp_path / "store").glob("step/??/*.safetensors"))
