"""Components from their configuration, with one sentence where that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.errors import UserError


def build(node: Any, where: str) -> Any:
    """The component that the config `node`, found at the config path `where`, describes by its `_target_`.

    Raises:
        UserError: when the target cannot be loaded, or refuses its options; it begins with `where`, such as `attack`.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from experiments.cli.explain import instantiation
    from experiments.cli.roles import check_options

    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{where} must be a component with a _target_, got {node!r:.80}.")
    check_options(node, where)
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        text = instantiation(error, where)
        if text is None:
            raise
        raise UserError(text) from error
