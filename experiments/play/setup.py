"""From a resolved configuration to the parts of a game, with every check that needs no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attacks.attack import Attack, opened
from attacks.black_box import check_search
from data.errors import UserError, called
from data.examples import Data
from data.machine import be_deterministic, use_device, use_threads
from defenses.defense import Filter
from defenses.filters.influence import Influence
from defenses.filters.none import NoDefense
from experiments.cli.roles import component
from experiments.play.access import resolve_access
from experiments.play.architecture import architecture_of, is_ours
from experiments.play.settings import Settings, check_sizes, pool_size, settings_from, stream_size
from experiments.storage import identity
from experiments.storage.store import Store, default_folder
from models.dropout import dropout_layers
from models.trial import try_out
from unlearning.procedure import Procedure, Task
from unlearning.service import OpenService


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
        return identity.victim_key(self.config, self.fingerprint, self.machine)

    def attack_key(self) -> dict[str, Any]:
        """What determines the requests of the attack, but for the seed."""
        return identity.attack_key(self.config, self.fingerprint, self.machine)

    def game_key(self) -> dict[str, Any]:
        """What determines the record of a game, but for its seed."""
        return identity.game_key(self.config, self.fingerprint, self.machine)

    @property
    def unfiltered(self) -> bool:
        """Whether every request is accepted, so that there is nothing to calibrate."""
        return isinstance(self.defense, NoDefense)

    @property
    def machine(self) -> identity.Machine:
        """What of this machine takes part in results."""
        return identity.Machine(self.device.type, self.threads)


def prepare(config: dict[str, Any], data: Data | None = None, non_blocking: frozenset[str] = frozenset()) -> Setup:
    """Build and check every part, load the data, train nothing.

    Args:
        config: a resolved configuration.
        data: the data set of `config`, where the caller has loaded it already.
        non_blocking: kinds of artifacts that are not awaited while another process computes them.

    Raises UserError for bad values, parts that do not fit each other, and missing or damaged data.
    """
    config = resolve_access(config)
    settings = settings_from(config)
    attack, defense = component(config["attack"], "attack"), component(config["defense"], "defense")
    procedure, training = component(config["unlearning"], "unlearning"), component(config["training"], "training")
    check_pairing(attack, defense, config)
    device, threads = use_device(settings.device), use_threads(settings.threads)
    be_deterministic(device)
    store = replace(store_of(config), non_blocking=non_blocking, keeps=bool(non_blocking))
    store.check()
    data = load(config) if data is None else data
    factory, module = architecture_of(config["model"], data)
    if getattr(getattr(attack, "functional", None), "samples", 1) > 1 and not dropout_layers(module):
        raise UserError("The MC-dropout functional needs a model with dropout; set model.dropout above 0.")
    moved = data.to(device)
    if not is_ours(module):
        behaves = try_out(factory, moved.train, len(data.classes), derivatives_needed(attack, procedure, defense))
        if procedure.irreproducible and behaves.changes_input:
            raise UserError(
                "model: its forward pass changes the input that it is given. Elsewhere it gets a copy, but a procedure "
                "with secret noise has no second run to show that this changes no number: write x = x - y in place of "
                "x.sub_(y), or set unlearning.noise=derived."
            )
    task = Task(moved.train, factory, training)
    if attack.access == "white_box" and getattr(attack, "needs_gradient", True):
        opened([OpenService(task, procedure, (), ())], called(attack))
    check_sizes(attack, settings.stream, len(data.train), calibrated=not isinstance(defense, NoDefense))
    if attack.access == "black_box" and getattr(attack, "feedback", "score") == "score" and hasattr(attack, "search"):
        pool = pool_size(attack, settings.stream, len(data.train))
        check_search(attack.search, pool, attack.queries)  # type: ignore[attr-defined]
    procedure.architecture(task)  # a committee that the records do not suffice for says so here
    if isinstance(defense, Influence):
        defense.check_calibration(settings.stream.calibration_batches * stream_size(attack, settings.stream))
    return Setup(
        config, settings, moved, task, procedure, attack, defense, device, threads, identity.fingerprint(data), store
    )  # fmt: skip


def store_of(config: Mapping[str, Any]) -> Store:
    """The store that a configuration names."""
    options = config["store"]
    return Store(Path(options["dir"]) if options["dir"] else default_folder(), bool(options["enabled"]))


def load(config: Mapping[str, Any]) -> Data:
    """The data set that a configuration names, on the CPU."""
    data = component(config["data"], "data").load()
    if not isinstance(data, Data):
        raise UserError(f"data: {config['data']['_target_']} loads {type(data).__name__}, not a Data of data.examples.")
    return data


def derivatives_needed(attack: Attack, procedure: Procedure, defense: Filter) -> bool:
    """Whether somebody differentiates the model in forward mode or twice, as training and retraining do not."""
    return attack.access == "white_box" or not procedure.exact or not isinstance(defense, NoDefense)


def check_pairing(attack: Any, defense: Any, config: Mapping[str, Any]) -> None:
    """Attack and defense must play the same game; one that names none fits every game."""
    attacked, defended = (getattr(part, "game", "any") for part in (attack, defense))
    if attacked != defended and "any" not in (attacked, defended):
        raise UserError(
            f"attack={called(attack)} plays the {attacked} game and defense={called(defense)} the {defended} game; "
            f"choose a defense of the {attacked} game, or defense=none."
        )
