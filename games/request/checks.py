"""What must fit together before a request game begins; nothing is trained to know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from attacks.crafting.access import AccessMode, opens, require_gradient
from attacks.crafting.black_box import check_search
from data.errors import UserError, called
from data.randomness import seeded
from defenses.provider import preparing
from games.request.informed import check_strategy
from games.request.repairing import held_back
from games.request.settings import check_sizes, pool_size, stream_size
from games.request.surrogate import check_transfer
from games.request.targets import unfiltered
from models.dropout import dropout_layers

if TYPE_CHECKING:
    from games.request.targets import RequestSetup


def check(setup: RequestSetup) -> None:
    """Raise UserError for an attack, a filter or a model that cannot play, and a data set that is too small."""
    preparing(setup.defense)  # one at most
    attack, stream, n = setup.attack, setup.game.stream, len(setup.data.train) - held_back(setup)
    check_attack(attack)
    if getattr(getattr(attack, "functional", None), "samples", 1) > 1 and not _has_dropout(setup):
        raise UserError("The MC-dropout functional needs a model with dropout; set model.dropout above 0.")
    if opens(attack.access) and getattr(attack, "needs_gradient", True):
        require_gradient(setup.procedure, called(attack))
    if hasattr(attack, "check"):
        attack.check(setup.data, setup.procedure, setup.game.service.record)
    check_sizes(attack, stream, n, calibrated=not unfiltered(setup))
    if attack.access == "transfer":
        check_transfer(setup)
    check_strategy(setup)
    rolled_back = getattr(attack, "feedback", "score") != "sequential"
    if attack.access == "black_box" and rolled_back and hasattr(attack, "search"):
        check_search(attack.search, pool_size(attack, stream, n), attack.queries)
    if hasattr(setup.defense, "check_calibration"):
        setup.defense.check_calibration(stream.calibration_batches * stream_size(attack, stream))


def _has_dropout(setup: RequestSetup) -> bool:
    with seeded(0):  # a module is drawn from the global generators
        return bool(dropout_layers(setup.task.build()))


def check_attack(attack: Any) -> None:
    """Raise UserError where what an attack says of itself cannot be."""
    if attack.access not in get_args(AccessMode):
        raise UserError(f"attack.access must be auto, white_box, black_box or transfer, got {attack.access!r:.60}.")
    sizes = {"budget": attack.budget} | ({} if attack.pool is None else {"pool": attack.pool})
    sizes |= {"queries": attack.queries} if hasattr(attack, "queries") else {}
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"attack.{name} must be a whole number of at least 1, got {value!r:.60}.")
    if not isinstance(attack.owned, int | float) or not 0 < attack.owned <= 1:
        raise UserError(f"attack.owned must be a share, above 0 and at most 1, got {attack.owned!r:.60}.")
