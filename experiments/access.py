"""`attack.access=auto`, settled: white-box where the procedure can be differentiated in the request, else black-box."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from data.errors import UserError
from experiments.records import canonical_json


def settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration with the access that `auto` stands for, which is what a record says and a key holds.

    Sequential feedback is a black-box setting, so it gets black-box access. Everything else is left as it is. Raises
    UserError where the procedure cannot be built.
    """
    attack = config["attack"]
    if attack.get("access") != "auto":
        return dict(config)
    white = attack.get("feedback") != "sequential" and _differentiable(canonical_json(config["unlearning"]))
    return {**config, "attack": {**attack, "access": "white_box" if white else "black_box"}}


def unsettled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with `auto` where it stands for the access that is there: the inverse of `settled`."""
    if "access" not in config["attack"]:
        return dict(config)
    automatic = {**config, "attack": {**config["attack"], "access": "auto"}}
    try:
        return automatic if settled(automatic)["attack"]["access"] == config["attack"]["access"] else dict(config)
    except UserError:  # a procedure of an old record, which cannot be built any more
        return dict(config)


@cache  # the cells of a sweep share few procedures
def _differentiable(unlearning: str) -> bool:
    from experiments.roles import component

    return bool(component(json.loads(unlearning), "unlearning").differentiable)
