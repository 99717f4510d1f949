"""Components from their configuration, with one sentence where that is wrong."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from data.bounds import EXACT, shown
from data.errors import UserError

LARGEST = 3.4e38


def build(node: Any, where: str) -> Any:
    """The component that the config `node`, found at the config path `where`, describes by its `_target_`.

    Raises UserError when the target cannot be loaded, or refuses its options; it begins with `where`, as in `attack`.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from experiments.cli.explain import instantiation

    check_component(node, where)
    check_options(node, where)
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        text = instantiation(error, where)
        if text is None:
            raise
        raise UserError(text) from error


def check_component(node: Any, where: str) -> None:
    """Raise UserError for what is no configuration of a component."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{where} must be a component with a _target_, got {node!r:.80}.")


def check_options(node: Mapping[str, Any], where: str, kind: Any = None) -> None:
    """Refuse, in the config `node` of a component and those inside it, true and false for numbers and endless integers.

    `kind` is the class of settings without a `_target_`, where it is known. Raises UserError naming the option.
    """
    target = node.get("_target_", "a.b")
    if isinstance(target, str | int | float | None) and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", str(target)):
        raise UserError(f"{where}._target_ must name a class, as package.module.Class, got {target!r:.60}.")
    hints = _hints(load_target(str(target)) if "_target_" in node else kind)
    for key, value in node.items():
        path, hint = f"{where}.{key}", hints.get(str(key), Any)
        if key in ("_partial_", "_recursive_") and not isinstance(value, bool):
            raise UserError(f"{path} must be true or false, got {value!r:.60}.")
        if isinstance(value, Mapping):
            check_options(value, path, hint)
        elif isinstance(value, bool) and not _takes_truth(hint):
            raise UserError(f"{path} must be a number, got {str(value).lower()}.")
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and LARGEST < abs(number) < math.inf:
                bounds = f"-{LARGEST:g} and {LARGEST:g}"
                raise UserError(f"{path} must lie between {bounds}, since models compute in float32.")
            if isinstance(number, int) and abs(number) > EXACT:
                raise UserError(
                    f"{path} must lie between {-EXACT:,} and {EXACT:,}, since records hold no larger numbers exactly; "
                    f"it is {shown(number)}."
                )


def load_target(target: str) -> Any:
    """What stands at a dotted path; None where it cannot be loaded, which is said where it is built."""
    from hydra._internal.utils import _locate  # hydra.utils.get_object would log what it cannot find

    try:
        return _locate(target)
    except Exception:  # whatever a broken module raises is said where the component is built
        return None


def _hints(kind: Any) -> dict[str, Any]:
    """The types of the options of a callable, where it says them."""
    try:
        return typing.get_type_hints(kind if dataclasses.is_dataclass(kind) else getattr(kind, "__init__", kind))
    except Exception:  # names that only a type checker can see
        return {}


def _takes_truth(hint: Any) -> bool:
    """Whether true and false are values of a type, and not only numbers in disguise."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return any(isinstance(value, bool) for value in parts)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(map(_takes_truth, parts))
    return hint not in (int, float, types.NoneType)
