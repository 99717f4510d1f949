"""The provider's spares: held back before anybody trains, and learned in the place of what was deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from defenses import provider
from defenses.provider import Repairs, repaired_task
from games.checkpoint import Checkpointed
from games.request.contributing import on_records
from models.named_tensors import digest, tensors_of
from models.victim import ModelStack, Victim, stack
from unlearning.procedure import Procedure, Request, Task

if TYPE_CHECKING:
    from games.request.evaluation import Judge
    from games.request.targets import RequestSetup

CODE = ("games.request.repairing",)  # that repairs, beside the defense and the procedure


@dataclass(frozen=True, eq=False)
class Repairing:
    """How a defense repairs models: with its `spares`, chosen at the `victim`, by the game's root seed.

    Slow repairs are kept by `steps`, where there are any, until the game is finished.
    """

    defense: Repairs
    spares: Examples
    victim: Victim
    seed: int
    steps: Checkpointed | None = None

    def models(
        self, judge: Judge, victims: Sequence[Victim], seeds: Sequence[int], requests: Sequence[Tensor],
        empty_too: bool = False, brought: Sequence[Request | None] = (),
    ) -> list[ModelStack]:  # fmt: skip
        """What `Judge.unlearn` gives for requests as positions in their order, repaired: one stack for every victim.

        One repaired training set is held at a time. Stand-ins for a request are the same with every seed.
        """
        unrepaired = cache(lambda: judge.unlearn(victims, seeds, judge.rows(requests), empty_too, brought))
        found: list[list[Victim]] = [[] for _ in victims]
        for k, request in enumerate(requests):
            deleted = request.to(judge.task.records.y.device)
            rng = generator(self.seed, "stand-ins", str(deleted.tolist()))
            task = repaired_task(self.defense, judge.task, self.victim, deleted, self.spares, rng)
            for v, seed in enumerate(seeds):

                def forgotten(v: int = v, k: int = k) -> Victim:
                    return unrepaired()[v][k]

                if len(request) or empty_too:
                    model = self._repaired(judge.procedure, task, victims[v], deleted, forgotten, seed)
                else:
                    model = _bare(victims[v])
                found[v].append(model)
        return [stack(models) for models in found]

    def _repaired(
        self, procedure: Procedure, task: Task, victim: Victim, deleted: Tensor, forgotten: Callable[[], Victim],
        seed: int,
    ) -> Victim:  # fmt: skip
        """The model after the repair, from an earlier run where it is kept."""

        def make() -> ModelStack:
            return stack([_bare(self.defense.repair(procedure, task, forgotten, seed))])

        if self.steps is None or not self.steps.keeps:
            return make()[0]
        like, records = _bare(victim), task.records
        asked = {"deleted": deleted, "x": records.x, "y": records.y, **tensors_of(like)}
        asked |= {} if task.forgotten is None else {"gone": task.forgotten}
        return self.steps.kept({"seed": seed, "repaired": digest(asked)}, like, make)[0]


def _bare(model: Victim) -> Victim:
    """A model without what repaired ones cannot have in common."""
    return replace(model, history={}, ledger={})


def held_back(setup: RequestSetup) -> int:
    """How many training records the provider keeps as spares: 0 without a defense that repairs.

    Raises UserError where no two records would be left.
    """
    repairs, n = provider.repairing(setup.defense), len(setup.data.train)
    if repairs is None:
        return 0
    if repairs.reserve > n - 2:
        raise UserError(f"defense.reserve={repairs.reserve} leaves nothing of {n} training records; lower it.")
    return repairs.reserve


def without_spares(setup: RequestSetup, seed: int) -> tuple[RequestSetup, Examples | None]:
    """The setup on the training records that are not held back, and those that are; None where none is."""
    count, records = held_back(setup), setup.task.records
    if count == 0:
        return setup, None
    order = torch.randperm(len(records), generator=generator(seed, "spares")).to(records.y.device)
    return on_records(setup, records[order[count:].sort().values]), records[order[:count].sort().values]


def repairing(setup: RequestSetup, spares: Examples | None, victim: Victim, seed: int) -> Repairing | None:
    """How the defense repairs models, if it does."""
    repairs = provider.repairing(setup.defense)
    if repairs is None or spares is None:
        return None
    steps = Checkpointed(setup.procedure, setup.store, setup.keys.of("unlearning", "defense", code=CODE))
    return Repairing(repairs, spares, victim, seed, steps)
