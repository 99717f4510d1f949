"""Repairs that took long are kept until their game is finished, and are not made again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from data.examples import Data
from defenses.filters.healing import Healing
from games.checkpoint import Checkpointed
from games.request.evaluation import Judge
from games.request.repairing import Repairing
from storage.store import Store
from tests.attacks.checks import bed
from unlearning.first_order import FirstOrder
from unlearning.procedure import Procedure
from unlearning.retrain import Retrain

REQUESTS = [torch.arange(5), torch.arange(5, 12), torch.empty(0, dtype=torch.long)]


def repaired(procedure: Procedure, store: Store, made: list[int], epochs: int = 1) -> tuple[torch.Tensor, Checkpointed]:
    """The parameters after repairs of all requests, each of which is counted; every run counts as slow."""
    of, one = bed(0), torch.ones(10, dtype=torch.float64)
    data = Data("testbed", of.task.records, of.test, of.test, of.trusted, ("a", "b", "c"), 0 * one, one)

    class Counting(Healing):
        def repair(self, *given):
            made.append(1)
            return super().repair(*given)

    steps = Checkpointed(procedure, store, {"victim": 0, "epochs": epochs}, slow=0.0)
    how = Repairing(Counting(reserve=600, epochs=epochs), of.spares, of.victim, 0, steps)
    judge = Judge(of.task, procedure, data, repairs=how)
    [models] = how.models(judge, [of.victim], [0], REQUESTS)
    return models.flat(), steps


def test_a_repair_is_made_once_and_again_for_another_setting(tmp_path: Path) -> None:
    for procedure in (Retrain(), FirstOrder()):
        store, made = Store(tmp_path / type(procedure).__name__), list[int]()
        first, steps = repaired(procedure, store, made)
        again, _ = repaired(procedure, store, made)
        assert torch.equal(first, again)
        assert len(made) == 2  # a request of nothing is not repaired
        assert torch.equal(first[2], bed(0).victim.flat())
        repaired(procedure, store, made, epochs=2)
        assert len(made) == 4
        steps.clear()
        assert torch.equal(repaired(procedure, store, made)[0], first)
        assert len(made) == 6
        off, _ = repaired(procedure, replace(store, enabled=False), made)
        assert torch.equal(off, first)
        assert len(made) == 8
