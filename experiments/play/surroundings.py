"""The settings of a game that no result depends on, checked for what they may be."""

from collections.abc import Mapping
from typing import Any

from data.errors import UserError


def check_surroundings(config: Mapping[str, Any]) -> None:
    """Make sure that `figures` and `store.dir` are what they can be.

    Raises:
        UserError: naming the key.
    """
    figures, folder = config["figures"], config["store"]["dir"]
    if not isinstance(figures, bool) and figures != "auto":
        raise UserError(f"figures must be auto, true or false, got {figures!r:.60}.")
    if folder is not None and (not isinstance(folder, str) or not folder.strip()):
        raise UserError(f"store.dir must be a folder or null, got {folder!r:.60}.")
