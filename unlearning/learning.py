"""Plain learning: what every procedure does that keeps nothing of how its model was learned."""

from __future__ import annotations

from models.training import train
from models.victim import Victim
from unlearning.task import Task


def plain_learning(task: Task, seed: int) -> Victim:
    """Train on the task's records: the `learn` of every procedure that records nothing while learning."""
    weights = None if task.forgotten is None else task.forgotten[None]
    return train(task.build, task.records, task.training, [seed], weights, label="training the victim")[0]
