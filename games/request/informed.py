"""The attacker of a game with what it knows of the filter, and what an adaptive one needs before it can play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from attacks.adaptive.none import strategy_of
from attacks.crafting.attack import Attacker, AttackGoal
from attacks.crafting.criterion import criterion_of
from data.errors import UserError
from data.randomness import derive
from games.request.rehearsal import Rehearsal
from games.request.settings import pool_size, reserved_count, stream_size
from games.request.targets import choose_attacker, unfiltered
from games.request.turns import streams_of
from unlearning.service import OpenService

if TYPE_CHECKING:
    from games.request.targets import RequestSetup


def informed(setup: RequestSetup, seed: int, service: OpenService, goals: Sequence[AttackGoal]) -> Attacker:
    """The attacker of `choose_attacker`, who knows the filter where its strategy needs one.

    Its draws come of a seed of their own: none of its streams or batches is one of the game's.
    """
    attacker, stream = choose_attacker(setup, seed), setup.game.stream
    if not strategy_of(setup.attack).needs_filter:
        return attacker
    knows = Rehearsal(
        setup.defense, service, goals, attacker, criterion_of(setup.attack), stream.benign,
        stream_size(setup.attack, stream), stream.calibration_batches, derive(seed, "rehearsal"),
    )  # fmt: skip
    return replace(attacker, knows=knows)


def check_strategy(setup: RequestSetup) -> None:
    """Raise UserError where an adaptive attacker has no filter to adapt to, or too few records to play trials with."""
    attack, stream, strategy = setup.attack, setup.game.stream, strategy_of(setup.attack)
    name, n, size = f"attack/adaptive={strategy.name}", len(setup.data.train), stream_size(attack, stream)
    if strategy.needs_filter and unfiltered(setup):
        raise UserError(
            f"{name} plays against a filter, and defense=none accepts everything; choose a filter, as in "
            "defense=influence, or attack/adaptive=none."
        )
    pool, aside, free = pool_size(attack, stream, n), strategy.set_aside(size), n - reserved_count(stream, n)
    if strategy.rehearses and pool < size:
        raise UserError(
            f"{name} plays trial streams of {size} records from the attacker's pool of {pool}; raise attack.owned or "
            "attack.pool, or lower attack.budget or game.stream.benign_per_malicious."
        )
    if pool - aside < attack.budget:
        raise UserError(
            f"{name} sets {aside} of the attacker's {pool} records aside, which leaves fewer than "
            f"attack.budget={attack.budget}; lower attack.adaptive.share, or raise attack.owned or attack.pool."
        )
    parts = streams_of(attack, strategy)
    if parts * size + attack.budget + aside > free:
        who = name if strategy.parts > 1 or aside or parts == 1 else "attack.judged=stages"
        fewer = "attack.adaptive.parts" if strategy.parts > 1 else "attack.stages"
        raise UserError(
            f"{who} needs {parts} streams of {size} records for a request, beside {aside} that are set aside "
            f"and its control, and {free} training records are not reserved; lower {fewer} or "
            "attack.budget, or game.stream.benign_per_malicious."
        )
    if hasattr(setup.defense, "check_sequence"):
        setup.defense.check_sequence(parts, size, n)
    copies = getattr(getattr(attack, "copies", None), "radius", 0.0) > 0
    if copies and (strategy.parts > 1 or strategy.sends_copies):
        raise UserError(f"{name} and attack.copies do not go together; set attack.copies.radius=0.")
    if strategy.sends_copies and setup.game.service.record == "own":
        raise UserError(f"{name} sends copies, and this server looks at none; set game.service.record=submitted.")
