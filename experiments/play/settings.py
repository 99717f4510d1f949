"""The settings of a game that belong to no component, and whether its data set is large enough for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, Strict, TypeAdapter
from pydantic.dataclasses import dataclass

from attacks.crafting.answer import check_budget
from attacks.crafting.attack import Attack
from data.bounds import at_most, exact
from data.errors import UserError
from data.machine import MOST_THREADS
from experiments.cli.explain import validation
from games.request.benign import Kind

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
# settings without a group; a record from before a setting was there is played with its default
NAMED = ("seed", "repetitions", "fresh_seeds", "judge", "device", "threads")
Threads = Annotated[int, Strict(), Field(ge=1), at_most(MOST_THREADS, "no machine has more cores")]
Band = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Targets:
    """Which test examples the attacker wants to move; see conf/run.yaml."""

    mode: Literal["single", "set"] = "single"
    direction: Literal["over", "under", "both"] = "both"
    count: Annotated[int, Field(ge=1), at_most(1_000_000, "each is attacked")] = 12
    over: Band = (0.45, 0.65)
    under: Band = (0.75, 0.95)

    def __post_init__(self) -> None:
        for name in ("over", "under"):
            low, high = getattr(self, name)
            if low >= high:
                raise UserError(
                    f"targets.{name}=[{low}, {high}] is an empty band of confidence; give [low, high], low < high."
                )

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that are played."""
        return ("over", "under") if self.direction == "both" else (self.direction,)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stream:
    """What the provider sees beside the attack; see conf/run.yaml."""

    benign_per_malicious: Annotated[int, Field(ge=1), at_most(1_000_000, "all are in one batch")] = 3
    benign: Kind = "uniform"
    harder: Kind | None = "outlier"
    benign_batches: Annotated[int, Field(ge=1), at_most(1000, "each is a model of its own")] = 4
    calibration_batches: Annotated[int, Field(ge=0), at_most(1000, "each is a model of its own")] = 8
    reserved: Annotated[float, Field(ge=0, lt=1)] = 0.2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """The settings of a game that belong to no component."""

    seed: Annotated[int, Field(ge=0), AfterValidator(exact)] = 0
    repetitions: Annotated[int, Field(ge=1), at_most(10_000, "each is a game of its own")] = 1
    fresh_seeds: Annotated[int, Field(ge=3), at_most(1000, "each is a set of models of its own")] = 3
    judge: Literal["full", "quick"] = "full"
    targets: Targets = Field(default_factory=Targets)
    stream: Stream = Field(default_factory=Stream)
    device: str = "auto"
    threads: Literal["auto"] | Threads = "auto"


def settings_from(config: Mapping[str, Any]) -> Settings:
    """The validated settings; raises UserError that names the key."""
    from pydantic import ValidationError

    parts: dict[str, Any] = {name: config[name] for name in NAMED if name in config}
    where = ""
    try:
        for where, kind in (("targets", Targets), ("stream", Stream)):
            parts[where] = TypeAdapter(kind).validate_python(config[where])
        where = ""
        return Settings(**parts)
    except ValidationError as error:
        raise UserError(validation(error, where) or str(error)) from error


def reserved_count(stream: Stream, n: int) -> int:
    """How many of n training records are reserved for calibration."""
    return round(stream.reserved * n)


def pool_size(attack: Attack, stream: Stream, n: int) -> int:
    """How many of n training records the attacker may name: its own, without the reserved ones."""
    owned = min(round(attack.owned * n), n - reserved_count(stream, n))
    return owned if attack.pool is None else min(owned, attack.pool)


def stream_size(attack: Attack, stream: Stream) -> int:
    """How many records a stream has, and every benign and calibration batch."""
    return attack.budget * (1 + stream.benign_per_malicious)


def check_sizes(attack: Attack, stream: Stream, n: int, calibrated: bool) -> None:
    """Raise UserError where n training records are too few for the attack, a stream, or a calibration batch."""
    check_budget(attack.budget, pool_size(attack, stream, n))
    size, reserved = stream_size(attack, stream), reserved_count(stream, n)
    # a stream, and the control of its request, share their benign records
    if size + attack.budget > n - reserved:
        raise UserError(
            f"A stream of {size} requests and its control (attack.budget and stream.benign_per_malicious) are more "
            f"than the {n - reserved} training records that are not reserved; lower one of them, or stream.reserved."
        )
    if calibrated and stream.calibration_batches and size > reserved:
        raise UserError(
            f"A calibration batch has the size of a stream, {size} records, and {reserved} of the {n} training records "
            "are reserved for it; raise stream.reserved, or lower attack.budget or stream.benign_per_malicious."
        )
