"""What learns the victims of a procedure: where that is written, and the settings that it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from data.errors import UserError
from unlearning.learning import plain_learning
from unlearning.procedure import Procedure

# what a procedure may write for itself without learning in another way
FORGETTING = {
    "forget",
    "forget_many",
    "forget_provably",
    "request_vjp",
    "copies_vjp",
    "recorded",
    "damped",
    "certificate",
    "remedy",
    "learns_with",
    "differentiable",
    "stochastic",
    "exact",
    "irreproducible",
}


def learner_of(procedure: object) -> tuple[str, dict[str, Any]]:
    """The dotted name of what defines the learning of a procedure, and the settings that it reads, as plain data.

    Two procedures with the same answer learn the same victims from one task and seed, so that a store keys victims by
    it (with the code at that place). For plain learning it is `plain_learning`, and no settings; else the class that
    writes `learn`, or that replaces something its bases may learn with. Raises UserError where all settings count and
    one of them is no plain data.
    """
    kind = type(procedure)
    owner = _owner(kind)
    if owner is Procedure:
        return f"{plain_learning.__module__}.{plain_learning.__qualname__}", {}
    lower = kind.__mro__[: kind.__mro__.index(owner) + 1]
    names = next((vars(each)["learns_with"] for each in lower if "learns_with" in vars(each)), None)
    read = {name: getattr(procedure, name) for name in (_settings(procedure) if names is None else names)}
    return f"{owner.__module__}.{owner.__qualname__}", {name: _plain(value, kind, name) for name, value in read.items()}


def _owner(kind: type) -> type:
    """The lowest class that writes `learn`, or replaces what its bases have beside verbs of forgetting and settings."""
    settings = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    for each in kind.__mro__:
        own = {name for name in vars(each) if not name.startswith("__") and name != "_abc_impl"}
        above = {name for base in each.__mro__[1:-1] for name in vars(base)}
        if "learn" in own or (own - FORGETTING - settings) & above:
            return each
    return kind


def _settings(procedure: object) -> list[str]:
    if dataclasses.is_dataclass(procedure):
        return [field.name for field in dataclasses.fields(procedure)]
    return list(vars(procedure))


def _plain(value: Any, kind: type, name: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), kind, name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part, kind, name) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, kind, name) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"unlearning={kind.__name__}: its {name} is a {type(value).__name__}, and victims are kept by plain settings; "
        "say in learns_with which settings learning reads."
    )
