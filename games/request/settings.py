"""The settings of the request game, and whether its data set is large enough for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from data.bounds import at_most
from data.errors import UserError

if TYPE_CHECKING:
    from attacks.crafting.attack import Attack

Kind = Literal["uniform", "clustered", "outlier", "per_class"]  # of who asks when nobody attacks
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Band = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]
FreshSeeds = Annotated[int, Field(ge=3), at_most(1000, "each is a set of models of its own")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TargetSettings:
    """Which test examples the attacker wants to move; see conf/game/request.yaml."""

    mode: Literal["single", "set"] = "single"
    direction: Literal["over", "under", "both"] = "both"
    count: Annotated[int, Field(ge=1), at_most(1_000_000, "each is attacked")] = 12
    over: Band = (0.45, 0.65)
    under: Band = (0.75, 0.95)
    far: Annotated[float, Field(gt=0, le=1)] | None = None

    def __post_init__(self) -> None:
        for name in ("over", "under"):
            low, high = getattr(self, name)
            if low >= high:
                raise UserError(
                    f"game.targets.{name}=[{low}, {high}] is an empty band of confidence; give [low, high], low < high."
                )

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that are played."""
        return ("over", "under") if self.direction == "both" else (self.direction,)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StreamSettings:
    """What the provider sees beside the attack; see conf/game/request.yaml."""

    benign_per_malicious: Annotated[int, Field(ge=1), at_most(1_000_000, "all are in one batch")] = 3
    benign: Kind = "uniform"
    harder: Kind | None = "outlier"
    split: Annotated[int, Field(ge=2), at_most(1000, "each is a stream of its own")] | None = 3
    benign_batches: Annotated[int, Field(ge=1), at_most(1000, "each is a model of its own")] = 4
    calibration_batches: Annotated[int, Field(ge=0), at_most(1000, "each is a model of its own")] = 8
    reserved: Annotated[float, Field(ge=0, lt=1)] = 0.2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ServiceSettings:
    """How the server carries out what it accepts; see conf/game/request.yaml.

    With `record` own it deletes the records that it has stored itself, whatever copies a request brings; with submitted
    it computes with the copies, where the procedure does so.
    """

    record: Literal["own", "submitted"] = "submitted"


def reserved_count(stream: StreamSettings, n: int) -> int:
    """How many of n training records are reserved for calibration."""
    return round(stream.reserved * n)


def pool_size(attack: Attack, stream: StreamSettings, n: int) -> int:
    """How many of n training records the attacker may name: its own, without the reserved ones."""
    owned = min(round(attack.owned * n), n - reserved_count(stream, n))
    return owned if attack.pool is None else min(owned, attack.pool)


def stream_size(attack: Attack, stream: StreamSettings) -> int:
    """How many records a stream has, and every benign and calibration batch."""
    return attack.budget * (1 + stream.benign_per_malicious)


def check_sizes(attack: Attack, stream: StreamSettings, n: int, calibrated: bool) -> None:
    """Raise UserError where n training records are too few for the attack, a stream, or a calibration batch."""
    from attacks.crafting.answer import check_budget

    check_budget(attack.budget, pool_size(attack, stream, n))
    size, reserved = stream_size(attack, stream), reserved_count(stream, n)
    # a stream, and the control of its request, share their benign records
    if size + attack.budget > n - reserved:
        raise UserError(
            f"A stream of {size} requests and its control (attack.budget and game.stream.benign_per_malicious) are "
            f"more than the {n - reserved} training records that are not reserved; lower one of them, or "
            "game.stream.reserved."
        )
    if calibrated and stream.calibration_batches and size > reserved:
        raise UserError(
            f"A calibration batch has the size of a stream, {size} records, and {reserved} of the {n} training records "
            "are reserved for it; raise game.stream.reserved, or lower attack.budget or "
            "game.stream.benign_per_malicious."
        )
