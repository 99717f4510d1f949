"""Plain learning: what every procedure does that keeps nothing of how its model was learned."""

from __future__ import annotations

from collections.abc import Sequence

from models.training import train
from models.victim import Victim
from unlearning.task import Task


def plain_learning(task: Task, seed: int) -> Victim:
    """Train on the task's records: the `learn` of every procedure that records nothing while learning."""
    weights = None if task.forgotten is None else task.forgotten[None]
    return train(task.build, task.records, task.training, [seed], weights, label="training the victim")[0]


def plain_learning_many(task: Task, seeds: Sequence[int]) -> list[Victim]:
    """The victims that `plain_learning` gives for each of the seeds, bit by bit, trained in turns."""
    if not seeds:
        return []
    weights = None if task.forgotten is None else task.forgotten.expand(len(seeds), -1)
    label = f"training {len(seeds)} victims"
    models = train(task.build, task.records, task.training, seeds, weights, label=label, as_if_alone=True)
    return [models[j] for j in range(len(models))]
