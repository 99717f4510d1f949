"""`attack.access=auto`, settled: white-box where the procedure can be differentiated in the request, else black-box."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from data.errors import UserError
from experiments.cli.reproduce import ACCESS
from experiments.cli.signatures import takes
from experiments.storage.records import canonical_json
from games.request.row import AUTOMATIC


def resolve_access(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration with the access that `auto` stands for, which is what a record says and a key holds.

    Sequential feedback is a black-box setting, so it gets black-box access. Everything else is left as it is, and what
    was `auto` is listed under AUTOMATIC. Raises UserError where the procedure cannot be built.
    """
    attack = config["attack"]
    if _claimed(attack) != "auto":
        return dict(config)
    if "access" not in attack and not takes(attack["_target_"], "access"):
        raise UserError(
            f"attack: {attack['_target_']} has the access auto and no option `access` by which it is told what that "
            'stands for; make it an option, as access: str = "auto", or name white_box or black_box.'
        )
    white = attack.get("feedback") != "sequential" and _differentiable(canonical_json(config["unlearning"]))
    return {**config, "attack": {**attack, "access": "white_box" if white else "black_box"}, AUTOMATIC: [ACCESS]}


def _claimed(attack: Mapping[str, Any]) -> Any:
    """The access that an attack's configuration names, or its class where it names none."""
    from hydra.utils import get_object

    if "access" in attack:
        return attack["access"]
    with suppress(Exception):  # what cannot be loaded is said where it is built
        return getattr(get_object(attack["_target_"]), "access", None)
    return None


@cache  # the cells of a sweep share few procedures
def _differentiable(unlearning: str) -> bool:
    from experiments.cli.roles import component

    return bool(component(json.loads(unlearning), "unlearning").differentiable)
