"""What a component must be for the place where it stands, checked before anything is trained with it."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from data.bounds import EXACT, shown
from data.errors import UserError
from experiments.cli.build import build

LARGEST = 3.4e38
MENTIONED = 3  # names that are missing, in a sentence


def check_options(node: Mapping[str, Any], where: str) -> None:
    """Refuse, in the config `node` of a component and those inside it, true and false for numbers and endless integers.

    Raises:
        UserError: naming the option.
    """
    target = node.get("_target_", "a.b")
    if isinstance(target, str | int | float | None) and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", str(target)):
        raise UserError(f"{where}._target_ must name a class, as package.module.Class, got {target!r:.60}.")
    hints = _hints(str(target))
    for key, value in node.items():
        path = f"{where}.{key}"
        if isinstance(value, Mapping):
            check_options(value, path)
        elif isinstance(value, bool) and not _takes_truth(hints.get(str(key), Any)):
            raise UserError(f"{path} must be a number, got {str(value).lower()}.")
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and LARGEST < abs(number) < math.inf:
                raise UserError(
                    f"{path} must lie between -{LARGEST:g} and {LARGEST:g}, since models compute in float32."
                )
            if isinstance(number, int) and abs(number) > EXACT:
                raise UserError(
                    f"{path} must lie between {-EXACT:,} and {EXACT:,}, since records hold no larger numbers exactly; "
                    f"it is {shown(number)}."
                )


def component(node: Any, where: str) -> Any:
    """The component that the config `node` describes, which can do what its place `where` asks of it.

    Raises:
        UserError: naming what is missing, as `build` does for what cannot be built.
    """
    target = str(node.get("_target_")) if isinstance(node, Mapping) else ""
    found = _load(target)
    if isinstance(found, types.ModuleType):
        raise UserError(f"{where}: {target!r} is a module; _target_ names a class in it.")
    if inspect.isclass(found):  # before it is built with options that are not its own
        _check(_written(found), _roles()[where].verbs, where, target)
    made = build(node, where)
    _check(set(dir(made)), _roles()[where].needs, where, target)
    _check_verbs(made, where, target)
    if where == "attack":
        _check_attack(made)
    if where == "unlearning" and made.differentiable and not hasattr(made, "request_vjp"):
        raise UserError(f"unlearning: {target} is differentiable and has no request_vjp; write it, or say False.")
    if where == "attack" and getattr(made, "functional", None) is not None:
        part = type(made.functional).__name__
        _check(set(dir(made.functional)), _roles()["attack.functional"].needs, "attack.functional", part)
    return made


def _written(kind: type) -> set[str]:
    """The members of a class; verbs that its base only names are not among them."""
    return set(dir(kind)) - getattr(kind, "__abstractmethods__", frozenset())


def _check_verbs(made: object, where: str, target: str) -> None:
    """Raise UserError for a verb that cannot be called with what its role calls it with."""
    for verb, names in _roles()[where].takes.items():
        method = getattr(made, verb)
        try:
            inspect.signature(method).bind(*names)
        except TypeError as error:
            raise UserError(
                f"{where}: {target}.{verb} is called with {', '.join(names)}, which it does not take ({error})."
            ) from error
        except ValueError:  # a callable that Python knows nothing about
            continue


def _check_attack(attack: Any) -> None:
    """Raise UserError where what an attack says of itself cannot be."""
    if attack.access not in ("auto", "white_box", "black_box"):
        raise UserError(f"attack.access must be auto, white_box or black_box, got {attack.access!r:.60}.")
    sizes = {"budget": attack.budget} | ({} if attack.pool is None else {"pool": attack.pool})
    sizes |= {"queries": attack.queries} if hasattr(attack, "queries") else {}
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"attack.{name} must be a whole number of at least 1, got {value!r:.60}.")
    if not isinstance(attack.owned, int | float) or not 0 < attack.owned <= 1:
        raise UserError(f"attack.owned must be a share, above 0 and at most 1, got {attack.owned!r:.60}.")


@dataclass(frozen=True)
class Role:
    """What stands at some place: a `noun`, the `verbs` that its class has, and all names that an instance `needs`.

    `takes`: the names of what each verb is called with, by position.
    """

    noun: str
    verbs: tuple[str, ...]
    needs: tuple[str, ...]
    takes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _check(has: set[str], needs: tuple[str, ...], where: str, target: str) -> None:
    missing = [name for name in needs if name not in has]
    if missing:
        lacks = " and no ".join(missing[:MENTIONED])
        raise UserError(
            f"{where}: {target} is no {_roles()[where].noun}, since it has no {lacks}; check _target_, or "
            "see docs/tutorial.md."
        )


@cache
def _roles() -> dict[str, Role]:
    from attacks.attack import Attack
    from attacks.functionals import Functional
    from defenses.defense import Filter
    from experiments.sweeps.launchers.launcher import Launcher
    from models.training import Training
    from unlearning.procedure import Procedure

    recipe = tuple(field.name for field in dataclasses.fields(Training))
    return {
        "attack": _role("attack", Attack),
        "attack.functional": _role("functional", Functional),
        "defense": _role("filter", Filter),
        "unlearning": _role("unlearning procedure", Procedure),
        "training": Role("recipe of training", (), recipe),
        "data": Role("data set", ("load",), ("load",)),
        "hydra.launcher": _role("launcher", Launcher),
    }


def _role(noun: str, protocol: type) -> Role:
    """What a protocol, or a base class, says of those who stand in its place."""
    members = {name: value for name, value in vars(protocol).items() if name == "__call__" or name[0] != "_"}
    verbs = tuple(name for name, value in members.items() if inspect.isfunction(value))
    return Role(noun, verbs, tuple(members), {verb: _taken(members[verb]) for verb in verbs})


def _taken(verb: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(verb).parameters)[1:]  # without self


def _load(target: str) -> Any:
    from hydra._internal.utils import _locate  # hydra.utils.get_object would log what it cannot find

    try:
        return _locate(target)
    except Exception:  # whatever a broken module raises is said where the component is built
        return None


def _hints(target: str) -> dict[str, Any]:
    """The types of the options of the callable at the dotted path `target`, where it says them."""
    found = _load(target)
    try:
        return typing.get_type_hints(found if dataclasses.is_dataclass(found) else getattr(found, "__init__", found))
    except Exception:  # names that only a type checker can see
        return {}


def _takes_truth(hint: Any) -> bool:
    """Whether true and false are values of a type, and not only numbers in disguise."""
    if typing.get_origin(hint) is typing.Literal:
        return any(isinstance(value, bool) for value in typing.get_args(hint))
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_takes_truth(part) for part in parts)
    if typing.get_origin(hint) is typing.Annotated:
        return _takes_truth(parts[0])
    return hint not in (int, float, types.NoneType)
