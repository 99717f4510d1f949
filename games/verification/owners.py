"""Who asks for deletion, and what they hand in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data.examples import Data
from data.randomness import generator
from defenses.verification.verification import Prepared, prepared
from games.victims import learn
from models.named_tensors import digest
from models.victim import Victim
from unlearning.procedure import Task

if TYPE_CHECKING:
    from games.game import Setup
    from games.verification.game import VerificationGame


def users_of(setup: Setup[VerificationGame], seed: int) -> tuple[Tensor, ...]:
    """The positions of every user's records, drawn from the training set, sorted within a user."""
    game = setup.game
    drawn = torch.randperm(len(setup.data.train), generator=generator(seed, "users"))[: game.users * game.records]
    return tuple(part.sort().values for part in drawn.split(game.records))


def handed_in(setup: Setup[VerificationGame], users: tuple[Tensor, ...], seed: int) -> tuple[Prepared, Task, Data]:
    """What the users hand in, with the task and the data that it makes."""
    defense: Any = setup.defense
    if not hasattr(defense, "prepare"):
        return Prepared(setup.data.train), setup.task, setup.data
    found = prepared(defense, setup.data, users, generator(seed, "owners"))
    return found, replace(setup.task, records=found.records), replace(setup.data, train=found.records)


def key_of_records(setup: Setup[Any], task: Task) -> dict[str, Any]:
    """What a key must name beside the data set: the records as they were handed in, where that is something else."""
    if task.records is setup.data.train or task.records is setup.task.records:
        return {}
    return {"records": digest({"x": task.records.x, "y": task.records.y})}


def original(setup: Setup[VerificationGame], task: Task, seed: int) -> Victim:
    """The model before deletion, that learned everything that was handed in."""
    return learn(setup, seed, task, key_of_records(setup, task))
