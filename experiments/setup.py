"""From a resolved configuration to the parts of a game, with every check that needs no training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from attacks.attack import Attack, check_budget, opened
from data.errors import UserError
from data.examples import Data
from defenses.defense import Filter
from experiments.code_version import code_version
from experiments.command import build
from experiments.explain import validation
from experiments.machine import be_deterministic, use_device, use_threads
from experiments.store import Store, default_folder
from models.dropout import dropout_layers
from unlearning.procedure import Procedure, Task
from unlearning.service import OpenService

STRICT = ConfigDict(extra="forbid")
Band = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Targets:
    """Which test examples the attacker wants to move; see conf/run.yaml."""

    mode: Literal["single", "set"] = "single"
    direction: Literal["over", "under", "both"] = "both"
    count: Annotated[int, Field(ge=1)] = 12
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

    benign_per_malicious: Annotated[int, Field(ge=1)] = 3
    calibration_batches: Annotated[int, Field(ge=0)] = 8
    benign_batches: Annotated[int, Field(ge=1)] = 4


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """The settings of a game that belong to no component."""

    seed: Annotated[int, Field(ge=0)] = 0
    repetitions: Annotated[int, Field(ge=1)] = 1
    fresh_seeds: Annotated[int, Field(ge=3)] = 3
    targets: Targets = Field(default_factory=Targets)
    stream: Stream = Field(default_factory=Stream)
    device: str = "auto"
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"


@plain_dataclass(frozen=True, eq=False)
class Setup:
    """Everything a game needs, on its device."""

    config: dict[str, Any]
    settings: Settings
    data: Data
    task: Task
    procedure: Procedure
    attack: Attack
    defense: Filter
    device: torch.device
    threads: int
    fingerprint: str
    store: Store

    def victim_key(self) -> dict[str, Any]:
        """What determines a trained victim, but for its seed."""
        parts = {part: self.config[part] for part in ("model", "training", "unlearning")}
        code = code_version(type(self.procedure), type(self.task.build()), type(self.task.training))
        return {
            **parts, "data": self.fingerprint, "code": code, "torch": torch.__version__,
            "device": self.device.type, "threads": self.threads,
        }  # fmt: skip

    def game_key(self) -> dict[str, Any]:
        """What determines the result of a game, but for its seed."""
        from experiments import play_one

        parts = {part: self.config[part] for part in ("attack", "defense", "targets", "stream", "fresh_seeds")}
        code = code_version(type(self.attack), type(self.defense), play_one)
        return {"victim": self.victim_key(), **parts, "game code": code}


def settings_from(config: Mapping[str, Any]) -> Settings:
    """The validated settings; raises UserError that names the key."""
    from pydantic import ValidationError

    parts: dict[str, Any] = {name: config[name] for name in ("seed", "repetitions", "fresh_seeds", "device", "threads")}
    where = ""
    try:
        for where, kind in (("targets", Targets), ("stream", Stream)):
            parts[where] = TypeAdapter(kind).validate_python(config[where])
        where = ""
        return Settings(**parts)
    except ValidationError as error:
        raise UserError(validation(error, where) or str(error)) from error


def prepare(config: dict[str, Any]) -> Setup:
    """Build and check every part, load the data, train nothing.

    Raises UserError for bad values, parts that do not fit each other, and missing or damaged data.
    """
    settings = settings_from(config)
    attack, defense = build(config["attack"], "attack"), build(config["defense"], "defense")
    procedure, training = build(config["unlearning"], "unlearning"), build(config["training"], "training")
    check_pairing(attack, defense, config)
    device, threads = use_device(settings.device), use_threads(settings.threads)
    be_deterministic(device)
    options = config["store"]
    store = Store(Path(options["dir"]) if options["dir"] else default_folder(), bool(options["enabled"]))
    store.check()
    data = build(config["data"], "data").load()
    factory = partial(build(config["model"], "model"), shape=data.shape, classes=len(data.classes))
    module = factory()  # a model that does not fit the data says so here
    if getattr(getattr(attack, "functional", None), "samples", 1) > 1 and not dropout_layers(module):
        raise UserError("The MC-dropout functional needs a model with dropout; set model.dropout above 0.")
    moved = data.to(device)
    task = Task(moved.train, factory, training)
    if attack.access == "white_box":
        opened([OpenService(task, procedure, (), ())], attack.name)
    check_budget(attack.budget, pool_size(attack, len(data.train)))
    largest = attack.budget * (1 + settings.stream.benign_per_malicious)
    if largest > len(data.train):
        raise UserError(
            f"A stream of {largest} requests (attack.budget and stream.benign_per_malicious) is larger than the "
            f"training set of {len(data.train)} records; lower one of them."
        )
    return Setup(
        config, settings, moved, task, procedure, attack, defense, device, threads, fingerprint(data), store
    )  # fmt: skip


def pool_size(attack: Attack, n: int) -> int:
    """How many of n training records the attacker may name."""
    owned = round(attack.owned * n)
    return owned if attack.pool is None else min(owned, attack.pool)


def check_pairing(attack: Any, defense: Any, config: Mapping[str, Any]) -> None:
    """Attack and defense must play the same game; `none` fits every game."""
    games = {attack.game, defense.game} - {"any"}
    if len(games) > 1:
        raise UserError(
            f"attack={attack.name} plays the {attack.game} game and defense={defense.name} the {defense.game} game; "
            f"choose a defense of the {attack.game} game, or defense=none."
        )


def fingerprint(data: Data) -> str:
    """A hash of every tensor of the data set, in its order and split."""
    digest = hashlib.blake2b(data.name.encode(), digest_size=16)
    for part in (data.train, data.test, data.trusted, data.auxiliary):
        for tensor in (part.x, part.y):
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
