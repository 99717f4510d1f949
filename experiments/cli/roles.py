"""What a component must be for the place where it stands, checked before anything is trained with it."""

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.naming import option
from experiments.cli.build import build, load_target
from experiments.cli.options import option_files
from games.game import Game

BASES = ("attacks.", "defenses.", "games.", "unlearning.")  # packages whose base classes call what others override
MENTIONED = 3  # names that are missing, in a sentence


@dataclass(frozen=True)
class Role:
    """What stands at some place: a `noun`, all names that an instance `needs`, and the verbs that its class has.

    `takes`: the verbs, with the names of what each is called with, by position.
    """

    noun: str
    needs: tuple[str, ...]
    takes: Mapping[str, tuple[str, ...]]


def component(node: Any, where: str, game: Game | None = None) -> Any:
    """The component that the config `node` describes, which can do what its place `where` asks of it.

    What an attack or a defense must be, the `game` says. Raises UserError naming what is missing, as `build` does for
    what cannot be built.
    """
    target = str(node.get("_target_")) if isinstance(node, Mapping) else ""
    found = load_target(target)
    if isinstance(found, types.ModuleType):
        raise UserError(f"{where}: {target!r} is a module; _target_ names a class in it.")
    role = _role_at(where, game)
    if role is not None and inspect.isclass(found):  # before it is built with options that are not its own
        _check(found, role.takes, where, target, role)
    made = build(node, where)
    if role is not None:
        _check(made, role.needs, where, target, role)
        _check_verbs(made, where, target, role)
    if where == "unlearning" and made.differentiable and not hasattr(made, "request_vjp"):
        raise UserError(f"unlearning: {target} is differentiable and has no request_vjp; write it, or say False.")
    for name in node:  # components inside it
        inner = _role_at(f"{where}.{name}", game)
        part = getattr(made, str(name), None)
        if inner is not None and part is not None:
            _check(part, inner.needs, f"{where}.{name}", type(part).__name__, inner)
    return made


def game_of(config: Mapping[str, Any]) -> Game:
    """The game that a configuration names.

    Raises UserError where it names none, which only an attack that fits every game leaves open, or one that is none.
    """
    if config.get("game") is None:
        attack = option(config, "attack")
        kind = load_target(str(config["attack"]["_target_"]))
        plays = getattr(build(config["attack"], "attack") if kind is None else kind, "game", "any")  # which says why
        if plays != "any":
            raise UserError(
                f"attack={attack} plays the {plays} game, and its YAML does not bring it; end its defaults with "
                f"`- override /game@_global_.game: {plays}`, or add game={plays} to the command line."
            )
        raise UserError(f"attack={attack} fits every game, so none is chosen; name one, as in game=request.")
    made = component(config["game"], "game")
    if not isinstance(made, Game):
        raise UserError(f"game: {config['game']['_target_']} is no game: it does not derive from games.game.Game.")
    return made


def known_games(folders: Sequence[Path] = (), notify: Callable[[str], None] | None = None) -> dict[str, Game]:
    """The games there are, with their default settings: ours, those of the `folders`, and those of plug-ins, by name.

    Where two have one name, the first is used. They are built from configuration that the user composes, never from a
    record. One that cannot be built is named to `notify`, and left out.
    """
    from omegaconf import OmegaConf

    found: dict[str, Game] = {}
    for path in option_files("game", folders).values():
        try:
            node: Any = OmegaConf.load(path)
            node.pop("defaults", None)
            game = component(OmegaConf.to_container(node, resolve=True), "game")
            found.setdefault(game.name, game)
        except Exception as error:
            if notify is not None:
                notify(f"The game of {path} is left out: {error}")
    return found


def _check(made: object, names: Iterable[str], where: str, target: str, role: Role) -> None:
    """Refuse a class or an instance that lacks one of the names; verbs that a base class only names are not written."""
    unwritten = getattr(made, "__abstractmethods__", ())
    missing = [name for name in names if name in unwritten or name not in dir(made)]
    if missing:
        lacks = " and no ".join(missing[:MENTIONED])
        raise UserError(
            f"{where}: {target} is no {role.noun}, since it has no {lacks}; check _target_, or see docs/tutorial.md."
        )


def _check_verbs(made: object, where: str, target: str, role: Role) -> None:
    """Refuse an instance with a verb that cannot be called with what its role, or its base class, calls it with."""
    own, takes = type(made), dict(role.takes)
    bases = [each for each in own.__mro__ if each.__module__.startswith(BASES)]
    for verb, function in ((verb, vars(base)[verb]) for base in bases for verb in vars(base).keys() & vars(own).keys()):
        if inspect.isfunction(function) and verb[0] != "_" and own not in bases:
            _, *parameters = inspect.signature(function).parameters.values()
            takes.setdefault(verb, tuple(each.name for each in parameters if each.default is each.empty))
    for verb, names in takes.items():
        try:
            inspect.signature(getattr(made, verb)).bind(*names)
        except TypeError as error:
            raise UserError(
                f"{where}: {target}.{verb} is called with {', '.join(names)}, which it does not take ({error})."
            ) from error
        except ValueError:  # a callable that Python knows nothing about
            continue


def _role_at(where: str, game: Game | None) -> Role | None:
    """The role of what stands at a place; None where nobody asks for any."""
    of_game = {} if game is None else game.roles()
    if where in of_game:
        return _role(*of_game[where])
    match where:  # what one place asks for is imported for it alone: a listing of games needs no torch
        case "unlearning":
            from unlearning.procedure import Procedure

            return _role("unlearning procedure", Procedure)
        case "training":
            from models.training import Training

            return Role("recipe of training", tuple(field.name for field in dataclasses.fields(Training)), {})
        case "data":
            return Role("data set", ("load",), {"load": ()})
        case "game":
            return Role("game", ("name", "headline", "play", "metrics"), {"play": ("setup", "seed"), "metrics": ()})
        case "hydra.launcher":
            from experiments.sweeps.launchers.launcher import Launcher

            return _role("launcher", Launcher)
    return None


@cache
def _role(noun: str, protocol: type) -> Role:
    """What a protocol, or a base class, says of those who stand in its place."""
    members = {name: value for name, value in vars(protocol).items() if name == "__call__" or name[0] != "_"}
    verbs = {name: inspect.signature(value) for name, value in members.items() if inspect.isfunction(value)}
    return Role(noun, tuple(members), {name: tuple(verb.parameters)[1:] for name, verb in verbs.items()})
