"""From a resolved configuration to the parts of a game, with every check that needs no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.examples import Data
from data.machine import be_deterministic, use_device, use_threads
from data.naming import option
from experiments.cli.build import check_component, load_target
from experiments.cli.options import option_files, written
from experiments.cli.roles import component, game_of
from experiments.play import identity
from experiments.play.architecture import OURS, architecture_of
from experiments.play.settings import settings_from
from games.game import Game, Setup
from models.trial import try_out
from storage.store import Store, default_folder
from unlearning.procedure import Task


def resolved(config: Mapping[str, Any]) -> tuple[Game, dict[str, Any]]:
    """The game of a resolved configuration, and the configuration with what the game's `auto`s stand for.

    Raises UserError where no game is chosen, or the parts belong to different games.
    """
    for place in ("attack", "defense", "unlearning"):
        check_component(config.get(place), place)
    game = game_of(config)
    check_pairing(game, config)
    return game, game.resolve(config, lambda place: component(config[place], place, game))


def prepare(
    config: Mapping[str, Any], data: Data | None = None, non_blocking: frozenset[str] = frozenset()
) -> Setup[Any]:
    """Build and check every part of a resolved configuration, load the data, train nothing.

    `data` is the data set of `config`, where the caller has loaded it already; `non_blocking` are kinds of artifacts
    that are not awaited while another process computes them: where there are any, those that the game calls slow join.

    Raises UserError for bad values, parts that do not fit each other, and missing or damaged data.
    """
    game, config = resolved(config)
    settings = settings_from(config)
    attack, defense = (component(config[place], place, game) for place in ("attack", "defense"))
    procedure, training = component(config["unlearning"], "unlearning"), component(config["training"], "training")
    device, threads = use_device(settings.device), use_threads(settings.threads)
    be_deterministic(device)
    store = store_of(config)
    if non_blocking:
        store = replace(store, non_blocking=non_blocking | game.slow, keeps=True)
    store.check()
    data = load(config) if data is None else data
    factory, module = architecture_of(config["model"], data)
    moved = data.to(device)
    if not type(module).__module__.startswith(OURS):  # the tests have tried ours
        derivatives = game.differentiates(attack, procedure, defense)
        behaves = try_out(factory, moved.train, len(data.classes), derivatives)
        if procedure.irreproducible and behaves.changes_input:
            raise UserError(
                "model: its forward pass changes the input that it is given. Elsewhere it gets a copy, but a procedure "
                "with secret noise has no second run to show that this changes no number: write x = x - y in place of "
                "x.sub_(y), or set unlearning.noise=derived."
            )
    task = Task(moved.train, factory, training)
    keys = identity.Keys(config, identity.fingerprint(data), identity.Machine(device.type, threads))
    setup = Setup(config, game, moved, task, procedure, attack, defense, settings.judge, device, threads, store, keys)
    game.check(setup)
    procedure.architecture(task)  # a committee that the records do not suffice for says so here
    return setup


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


def check_pairing(game: Game, config: Mapping[str, Any]) -> None:
    """Raise UserError, with what fits, for an attack or a defense of another game; without one they fit every game."""
    for place in ("attack", "defense"):
        plays = _plays(config[place])
        if plays not in ("any", game.name):
            options = option_files(place).items()  # ours and those of plug-ins
            fits = [name for name, path in options if _plays(written(path)) in ("any", game.name)]
            raise UserError(
                f"{place}={option(config, place)} plays the {plays} game, and this is the {game.name} game; choose "
                f"one of its own: {place}={' or '.join(fits)}."
            )


def _plays(node: Any) -> str:
    """The game that a component belongs to, as its class says; what cannot be loaded is said where it is built."""
    target = str(node.get("_target_")) if isinstance(node, Mapping) else ""
    return str(getattr(load_target(target), "game", "any"))
