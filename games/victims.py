"""Trained victims, from the store where they are there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from models.named_tensors import tensors_of, victim_of
from models.training import initialise
from unlearning.procedure import learned

if TYPE_CHECKING:
    from games.game import Setup
    from models.victim import Victim
    from unlearning.procedure import Task

log = logging.getLogger(__name__)


def learn(setup: Setup[Any], seed: int, task: Task | None = None, more: Mapping[str, Any] | None = None) -> Victim:
    """The victim of `seed`; one with secret noise is never kept.

    `task` has other records than the data set, where somebody changed them; `more` names them in the key.
    """
    task = task or setup.task
    if setup.procedure.irreproducible:
        victim = learned(setup.procedure, task, seed)
        log.info("Victim of seed %d: trained, and not kept, since its procedure draws secret noise.", seed)
        return victim
    key = {**setup.keys.victim(), **(more or {}), "seed": seed}
    tensors, hit = setup.store.tensors("victim", key, lambda: tensors_of(learned(setup.procedure, task, seed)))
    log.info("Victim of seed %d: %s.", seed, "taken from the store" if hit else "trained")
    module = initialise(setup.procedure.architecture(task), seed, task.records.x)[0]
    return victim_of(tensors, module, setup.device)
