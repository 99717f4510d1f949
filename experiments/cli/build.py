"""Components from their configuration, with one sentence where that is wrong."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from data.errors import UserError


def build(node: Any, where: str, **extra: Any) -> Any:
    """The component that the config `node`, found at the config path `where`, describes by its `_target_`.

    Args:
        node: a mapping with `_target_`.
        where: the config path, such as `attack`, that error messages begin with.
        extra: further keyword arguments of the target, which are passed as they are.

    Raises:
        UserError: when the target cannot be loaded, or refuses its options.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from experiments.cli.explain import construction, instantiation
    from experiments.cli.roles import check_options

    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{where} must be a component with a _target_, got {node!r:.80}.")
    check_options(node, where)
    try:
        if not extra:
            return instantiate(node, _convert_="all")
        # Hydra would copy the extras into a config, and turn our dataclasses into dicts
        component = functools.partial(instantiate(node, _convert_="all", _partial_=True), **extra)
    except InstantiationException as error:
        text = instantiation(error, where)
        if text is None:
            raise
        raise UserError(text) from error
    if node.get("_partial_"):
        return component
    try:
        return component()
    except Exception as error:
        text = construction(error, where, node["_target_"])
        if text is None:
            raise
        raise UserError(text) from error
