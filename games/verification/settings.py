"""The settings of the verification game; see conf/game/verification.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from data.bounds import at_most

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProofSettings:
    """How proofs are written, where the verification asks for one.

    Attributes:
        every: steps from one checkpoint to the next; 1 is a checkpoint after every step.
        key: checkpoints from one with the optimiser's moments to the next.
        keep: whether the proof stays after it was verified; the record names its folder.
        folder: where proofs are written; null is the folder `proofs` of the store.
    """

    every: Annotated[int, Field(ge=1), at_most(1_000_000, "a proof without checkpoints proves nothing")] = 1
    key: Annotated[int, Field(ge=1), at_most(1_000_000, "the work is shared by them")] = 50
    keep: bool = False
    folder: str | None = None
