"""Which options a callable takes, found out from its signature before it is called with them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping


def parameters_of(target: str) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of the callable at a dotted path; None where it takes any option, or Python cannot say."""
    from hydra.utils import get_object

    try:
        found = inspect.signature(get_object(target)).parameters
    except (ImportError, ValueError, TypeError):  # what cannot be loaded or called is said where it is built
        return None
    return None if any(each.kind is each.VAR_KEYWORD for each in found.values()) else found


def takes(target: str, option: str) -> bool:
    """Whether the callable at a dotted path takes an option, or may take it."""
    found = parameters_of(target)
    return found is None or option in found
