"""The laziest provider: it releases the model as it was, with the record of how that was trained."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from attacks.provider.logs import copy_log
from attacks.provider.provider import Demand
from models.victim import Victim


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class DoNothing:
    """Releases the original; its proof is the log of the original training, whose batches have deleted records."""

    game: ClassVar[str] = "verification"
    name: ClassVar[str] = "do_nothing"
    needs_log: ClassVar[bool] = True

    def pretend(self, demand: Demand) -> Victim:
        """The original, and its own log as the proof."""
        if demand.recorder is not None:
            assert demand.log is not None
            copy_log(demand.log, demand.recorder)
        return demand.original
