"""`attack.access=auto`, settled: white-box where the procedure can be differentiated in the request, else black-box."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from data.errors import UserError
from data.naming import AUTOMATIC
from data.signatures import takes

ACCESS = "attack.access"  # the one option whose `auto` is settled before a game


def resolve_access(config: Mapping[str, Any], component: Callable[[str], Any]) -> dict[str, Any]:
    """A resolved configuration with the access that `auto` stands for, which is what a record says and a key holds.

    Any feedback but scores is a black-box setting, so it gets black-box access. Everything else is left as it is, and
    what was `auto` is listed under AUTOMATIC. `component` builds what stands at a place of the configuration. Raises
    UserError where the procedure cannot be built.
    """
    attack = config["attack"]
    if _claimed(attack) != "auto":
        return dict(config)
    if "access" not in attack and not takes(attack["_target_"], "access"):
        raise UserError(
            f"attack: {attack['_target_']} has the access auto and no option `access` by which it is told what that "
            'stands for; make it an option, as access: str = "auto", or name white_box, black_box or transfer.'
        )
    white = attack.get("feedback", "score") == "score" and bool(component("unlearning").differentiable)
    return {**config, "attack": {**attack, "access": "white_box" if white else "black_box"}, AUTOMATIC: [ACCESS]}


def _claimed(attack: Mapping[str, Any]) -> Any:
    """The access that an attack's configuration names, or its class where it names none."""
    from hydra.utils import get_object

    if "access" in attack:
        return attack["access"]
    with suppress(Exception):  # what cannot be loaded is said where it is built
        return getattr(get_object(attack["_target_"]), "access", None)
    return None
