"""Off-manifold targets: those far from the examples by which the provider tells what requests do."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from attacks.adaptive.strategy import STRICT, Adaptive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OffManifold(Adaptive):
    """Targets are drawn from the share `far` of a band that lies farthest from the nearest trusted example.

    It is `game.targets.far` as the attacker's choice, and that setting, where it is given, takes its place. Distances
    are Euclidean, in the inputs, to the filter's trusted examples, which the attacker would have to guess: an upper
    bound on what it can choose. Meant to weaken filters that look at trusted examples (S3, S4, S5, set_level); on the
    testbed of the tests it does not (docs/attacks.md). Requests are crafted as without a strategy.
    """

    name: ClassVar[str] = "off_manifold"
    far: Annotated[float, Field(gt=0, le=1)] = 0.25  # type: ignore[assignment]
