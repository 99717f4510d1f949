"""Calibration poisoning: the attacker's own high-score records are among those that set the filter's threshold."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.adaptive.strategy import STRICT, Adaptive, Crafting, knowledge_of
from attacks.crafting.attack import Attacker
from data.errors import UserError
from data.examples import Examples
from models.gradients import gradient_norms
from models.victim import Victim
from unlearning.service import OpenService

_known: WeakKeyDictionary[Victim, tuple[Examples, Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CalibrationPoisoning(Adaptive):
    """While the filter is calibrated the attacker asks too: a `share` of every batch, rounded, is its records.

    They are those of its pool with the largest gradient norms at the victim, the same in every batch, and are set
    aside: no request, control or benign stream of the game names them. A threshold that a rate alpha of benign scores
    may exceed lies among the scores of the poison once `share` exceeds alpha; robust_z, which takes medians, moves
    little. Filters without a calibration are immune. Our strategy.
    """

    name: ClassVar[str] = "calibration_poisoning"
    opens: ClassVar[bool] = True
    needs_filter: ClassVar[bool] = True
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1

    def poison(self, service: OpenService, attacker: Attacker) -> Tensor:
        """The records (m,) of the pool with the largest gradients, sorted positions."""
        norms = _norms(service.victims[0], attacker.owned)
        most = min(self._count(attacker), len(norms))
        return attacker.pool[norms.topk(most).indices].sort().values.cpu()

    def narrow(self, service: OpenService, attacker: Attacker, budget: int, cap: float | None) -> Attacker:
        """The attacker without the records that are set aside; raises UserError where too few are left."""
        left = super().narrow(service, attacker, budget, cap)
        kept = ~torch.isin(left.pool, self.poison(service, attacker).to(left.pool.device))
        if int(kept.sum()) < budget:
            raise UserError(
                f"attack/adaptive=calibration_poisoning sets {self._count(attacker)} records aside, which leaves "
                f"{int(kept.sum())}, fewer than attack.budget={budget}; lower attack.adaptive.share."
            )
        return replace(left, pool=left.pool[kept], owned=left.owned[kept])

    def applicable(self, crafting: Crafting, attacker: Attacker) -> bool:
        """Where a batch has room for poison, and the pool for poison, request and trial streams."""
        count, size = self._count(attacker), knowledge_of(attacker, self.name).size
        return count > 0 and len(attacker.pool) >= count + size + crafting.budget

    def set_aside(self, size: int) -> int:
        """The share of a batch."""
        return round(self.share * size)

    def _count(self, attacker: Attacker) -> int:
        return self.set_aside(knowledge_of(attacker, self.name).size)


def _norms(victim: Victim, records: Examples) -> Tensor:
    """The gradient norms (m,) of records, computed once for a victim: crafting, trials and traffic all ask for them."""
    known = _known.get(victim)
    if known is None or not torch.equal(known[0].x, records.x) or not torch.equal(known[0].y, records.y):
        known = _known[victim] = records, gradient_norms(victim, records)
    return known[1]
