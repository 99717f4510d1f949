"""Dilution: a part of the request is cover, records at random among which the harmful ones stand out less."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from attacks.adaptive.strategy import STRICT, Adaptive, Crafting
from attacks.crafting.attack import Attacker, AttackResult
from data.examples import Examples
from unlearning.procedure import Request


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dilution(Adaptive):
    """A `share` of the budget, rounded, is drawn at random from the pool; the search has the rest, at least one record.

    A request of m harmful records pushes the same way m times: S1, which scores along the move of the model, S7 and
    tests of whole batches see that the less the fewer they are. A request that the search leaves empty gets no cover.
    The objective of a result is that of its harmful part. Our strategy.
    """

    name: ClassVar[str] = "dilution"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def craft(self, crafting: Crafting, attacker: Attacker) -> list[AttackResult]:
        """Harmful records first, then their cover."""
        cover = min(round(self.share * crafting.budget), crafting.budget - 1)
        found = crafting.search(attacker, crafting.budget - cover)
        return [_covered(result, attacker, cover, crafting.rng) for result in found]


def _covered(result: AttackResult, attacker: Attacker, count: int, rng: torch.Generator) -> AttackResult:
    """The result with `count` more records of the pool, drawn at random among those that it does not name."""
    request = result.request
    if not request.indices:
        return result
    pool = attacker.pool.cpu()
    free = (~torch.isin(pool, torch.tensor(request.indices))).nonzero()[:, 0]
    rows = free[torch.randperm(len(free), generator=rng)[:count]]
    examples = request.examples
    if examples is not None:  # cover is sent as it is stored
        own = attacker.owned[rows.to(attacker.pool.device)]
        examples = Examples(torch.cat([examples.x, own.x]), torch.cat([examples.y, own.y]))
    return replace(result, request=Request((*request.indices, *pool[rows].tolist()), examples))
