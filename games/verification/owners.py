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


def held_back(setup: Setup[VerificationGame]) -> int:
    """How many records the users keep to themselves, all of them together; 0 where the verification has no use for it.

    The test file of a data set need not be of the population of its training file, that of MNIST is not, so that what
    tells the two apart is no sign of membership.
    """
    return setup.game.users * setup.game.held_back if getattr(setup.defense, "holds_back", False) else 0


def brought(setup: Setup[VerificationGame], seed: int) -> tuple[Data, tuple[Tensor, ...]]:
    """The data of a game, and the positions in its training set of every user's records, sorted within a user.

    Users draw their records from the training set, and those that they hold back (`held_back`) likewise: these leave
    the training set, so that no provider ever sees them, and stand in the place of the trusted examples.
    """
    game, data = setup.game, setup.data
    order = torch.randperm(len(data.train), generator=generator(seed, "users"))
    asked, device = game.users * game.records, data.train.y.device
    held, rest = order[asked : asked + held_back(setup)], torch.ones(len(order), dtype=torch.bool)
    rest[held] = False
    if len(held):
        rows = rest.nonzero()[:, 0]
        data = replace(data, train=data.train[rows.to(device)], trusted=data.train[held.to(device)])
    places = rest.cumsum(0) - 1
    return data, tuple(places[part].sort().values for part in order[:asked].split(game.records))


def handed_in(
    setup: Setup[VerificationGame], data: Data, users: tuple[Tensor, ...], seed: int
) -> tuple[Prepared, Task, Data]:
    """What the users hand in, with the task and the data that it makes."""
    defense: Any = setup.defense
    found = Prepared(data.train)
    if hasattr(defense, "prepare"):
        found = prepared(defense, data, users, generator(seed, "owners"))
    return found, replace(setup.task, records=found.records), replace(data, train=found.records)


def key_of_records(setup: Setup[Any], task: Task) -> dict[str, Any]:
    """What a key must name beside the data set: the records as they were handed in, where that is something else."""
    if task.records is setup.data.train or task.records is setup.task.records:
        return {}
    return {"records": digest({"x": task.records.x, "y": task.records.y})}


def original(setup: Setup[VerificationGame], task: Task, seed: int) -> Victim:
    """The model before deletion, that learned everything that was handed in."""
    return learn(setup, seed, task, key_of_records(setup, task))
