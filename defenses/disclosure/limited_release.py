"""Limited releases: fewer, rounded or noisy results, against who reconstructs records from exact ones."""

from __future__ import annotations

from typing import Annotated, ClassVar, Protocol

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most


class Discloses(Protocol):
    """A policy of releases: whether one is `due` after so many deletions since the last, and what of it is `shown`."""

    def due(self, pending: int) -> bool: ...
    def shown(self, exact: Tensor, rng: torch.Generator) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class LimitedRelease:
    """One release for `batch` deletions, with N(0, `noise`^2) on every number, rounded to `decimals` (null: not).

    The deletions themselves are exact, and take place at once. Noise comes from the seed of the game: it measures what
    noise of that size does, and is no mechanism with a guarantee of privacy.
    """

    game: ClassVar[str] = "undeleted"
    name: ClassVar[str] = "limited_release"
    batch: Annotated[int, Field(ge=1), at_most(1_000_000, "nothing would ever be published")] = 10
    decimals: Annotated[int, Field(ge=0), at_most(15, "float64 has no more")] | None = None
    noise: Annotated[float, Field(ge=0)] = 0.0

    def due(self, pending: int) -> bool:
        """Whether `pending` deletions since the last release are enough for another."""
        return pending >= self.batch

    def shown(self, exact: Tensor, rng: torch.Generator) -> Tensor:
        """What is published in place of `exact` (...,)."""
        noisy = exact + self.noise * torch.randn(exact.shape, generator=rng, dtype=exact.dtype) if self.noise else exact
        return noisy if self.decimals is None else torch.round(noisy, decimals=self.decimals)
