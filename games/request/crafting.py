"""The attack's turn: one request for every goal, with the access that its configuration claims and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.adaptive.none import strategy_of
from attacks.crafting.access import Access
from attacks.crafting.attack import AttackResult
from attacks.crafting.requester import crafted
from attacks.crafting.transfer import as_provider_counts, as_surrogate_counts
from data.examples import Examples
from data.randomness import generator
from games.checkpoint import Checkpointed
from games.request.informed import informed
from games.request.surrogate import surrogate_of, surrogate_setup
from games.request.targets import Targets, choose_attacker
from models.victim import Victim
from unlearning.procedure import Request
from unlearning.service import Feedback, Meter, OpenService, serve

if TYPE_CHECKING:
    from games.request.targets import RequestSetup

CODE = ("games.request.crafting",)  # that computes requests, beside the attack and the procedure


@dataclass(frozen=True)
class CraftingRun:
    """What an attack asked for, what it used, and the seconds it took when it was really played."""

    crafted: tuple[AttackResult, ...]
    meter: Meter
    seconds: float


def craft(
    setup: RequestSetup, seed: int, victims: Sequence[Victim], seeds: Sequence[int], chosen: Targets
) -> CraftingRun:
    """The attack's requests, from the store where they are there: games that differ in their defense share them.

    Copies that requests bring are kept with them, as tensors.
    """
    shown = setup  # whose models the attack is shown
    if setup.attack.access == "transfer":
        shown = surrogate_setup(setup, choose_attacker(setup, seed))
    steps = Checkpointed(setup.procedure, setup.store, shown.keys.of("unlearning"))
    run = cache(lambda: _play(setup, steps, seed, victims, seeds, chosen))
    if setup.procedure.irreproducible:  # the victim is not kept, so requests made for it fit no other game
        return run()
    places: tuple[str, ...] = ("attack", "unlearning", "game.targets", "game.stream.reserved", "game.service")
    if strategy_of(setup.attack).needs_filter:  # what it crafts depends on what the filter makes of it
        places = (*places, "defense", "game.stream")
    key = {**setup.keys.of(*places, code=CODE), "seed": seed}
    record, _ = setup.store.record("attack", key, lambda: _as_record(run()))
    found = _from_record(record)
    if any(each["copies"] for each in record["requests"]):
        tensors, _ = setup.store.tensors("copies", key, lambda: _copies(run()))
        found = _with_copies(found, tensors, setup.device)
    steps.clear()
    return found


def _play(
    setup: RequestSetup,
    steps: Checkpointed,
    seed: int,
    victims: Sequence[Victim],
    seeds: Sequence[int],
    chosen: Targets,
) -> CraftingRun:
    began, meter, attack, rng = perf_counter(), Meter(), setup.attack, generator(seed, "attack")
    attacker = choose_attacker(setup, seed)
    if attack.access == "transfer":
        meter.predictions += sum(len(goal.labels) for goal in chosen.goals)  # all that it asks of the provider
        surrogate = surrogate_of(setup, seed, attacker, meter, steps)
        found = crafted(attack, [surrogate], chosen.goals, as_surrogate_counts(attacker), rng)
        return CraftingRun(tuple(as_provider_counts(found, attacker)), meter, perf_counter() - began)
    provider = OpenService(setup.task, steps, tuple(victims), tuple(seeds), meter, setup.game.service.record)
    accesses: list[Access] = [provider]
    if attack.access != "white_box":
        queries: int = getattr(attack, "queries", 1)
        feedback: Feedback = getattr(attack, "feedback", "score")
        accesses = [serve(provider, queries, feedback) for _ in chosen.goals]
    attacker = informed(setup, seed, provider, chosen.goals)
    requests = crafted(attack, accesses, chosen.goals, attacker, rng)
    return CraftingRun(tuple(requests), meter, perf_counter() - began)


def _as_record(run: CraftingRun) -> dict[str, Any]:
    return {
        "requests": [
            {
                "indices": each.request.indices,
                "objective": each.objective,
                "curve": each.curve,
                "copies": each.request.examples is not None,
                "tried": [list(pair) for pair in each.tried],
                "stages": list(each.stages),
            }
            for each in run.crafted
        ],
        "queries": run.meter.queries,
        "predictions": run.meter.predictions,
        "operator_calls": run.meter.operator_calls,
        "seconds": run.seconds,
    }


def _from_record(record: Mapping[str, Any]) -> CraftingRun:
    requests = tuple(
        AttackResult(
            Request(tuple(each["indices"])),
            float(each["objective"]),
            tuple(float(c) for c in each["curve"]),
            tuple((str(name), float(worth)) for name, worth in each["tried"]),
            tuple(map(int, each["stages"])),
        )
        for each in record["requests"]
    )
    meter = Meter(record["queries"], record["predictions"], record["operator_calls"])
    return CraftingRun(requests, meter, float(record["seconds"]))


def _copies(run: CraftingRun) -> dict[str, Tensor]:
    """What the requests brought, by the number of the request."""
    brought = {i: each.request.examples for i, each in enumerate(run.crafted) if each.request.examples is not None}
    return {f"{i}/{part}": getattr(examples, part) for i, examples in brought.items() for part in ("x", "y")}


def _with_copies(run: CraftingRun, tensors: Mapping[str, Tensor], device: torch.device) -> CraftingRun:
    crafted = list(run.crafted)
    for i, each in enumerate(crafted):
        if f"{i}/x" in tensors:
            examples = Examples(tensors[f"{i}/x"].to(device), tensors[f"{i}/y"].to(device))
            crafted[i] = replace(each, request=replace(each.request, examples=examples))
    return replace(run, crafted=tuple(crafted))
