"""Norm cap: name only records with a small gradient, which move the model less and stand out less."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from attacks.adaptive.strategy import STRICT, Adaptive
from attacks.crafting.attack import Attacker
from unlearning.service import OpenService


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NormCap(Adaptive):
    """Only records i with ||g_i|| at most the `quantile` of all training records' are named; see `norm_cap` there.

    The attack's own `norm_cap`, where it is set, takes the place of `quantile`. Our strategy against filters that score
    by gradients.
    """

    name: ClassVar[str] = "norm_cap"
    opens: ClassVar[bool] = True
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.7

    def narrow(self, service: OpenService, attacker: Attacker, budget: int, cap: float | None) -> Attacker:
        """The attacker without records above the cap."""
        return super().narrow(service, attacker, budget, self.quantile if cap is None else cap)
