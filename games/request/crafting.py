"""The attack's turn: one request for every aim, with the access that its configuration claims and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from attacks.crafting.access import Access
from attacks.crafting.attack import AttackResult
from attacks.crafting.requester import crafted
from data.randomness import generator
from experiments.play.setup import Setup
from games.checkpoint import Checkpointed
from games.request.targets import Chosen, choose_attacker
from models.victim import Victim
from unlearning.procedure import Request
from unlearning.service import Feedback, Meter, OpenService, serve


@dataclass(frozen=True)
class CraftingRun:
    """What an attack asked for, what it used, and the seconds it took when it was really played."""

    crafted: tuple[AttackResult, ...]
    meter: Meter
    seconds: float


def craft(setup: Setup, seed: int, victims: Sequence[Victim], seeds: Sequence[int], chosen: Chosen) -> CraftingRun:
    """The attack's requests, from the store where they are there: games that differ in their defense share them."""
    steps = Checkpointed(setup.procedure, setup.store, setup.victim_key())
    if setup.procedure.irreproducible:  # the victim is not kept, so requests made for it fit no other game
        return _play(setup, steps, seed, victims, seeds, chosen)
    record, _ = setup.store.record(
        "attack", {**setup.attack_key(), "seed": seed},
        lambda: _as_record(_play(setup, steps, seed, victims, seeds, chosen)),
    )  # fmt: skip
    steps.clear()
    return _from_record(record)


def _play(
    setup: Setup, steps: Checkpointed, seed: int, victims: Sequence[Victim], seeds: Sequence[int], chosen: Chosen
) -> CraftingRun:
    began, meter, attack = perf_counter(), Meter(), setup.attack
    provider = OpenService(setup.task, steps, tuple(victims), tuple(seeds), meter)
    accesses: list[Access] = [provider]
    if attack.access != "white_box":
        queries: int = getattr(attack, "queries", 1)
        feedback: Feedback = getattr(attack, "feedback", "score")
        accesses = [serve(provider, queries, feedback) for _ in chosen.aims]
    requests = crafted(attack, accesses, chosen.aims, choose_attacker(setup, seed), generator(seed, "attack"))
    return CraftingRun(tuple(requests), meter, perf_counter() - began)


def _as_record(turn: CraftingRun) -> dict[str, Any]:
    if any(each.request.examples is not None for each in turn.crafted):
        raise NotImplementedError("Requests that bring copies of their own need a place for them in the store.")
    return {
        "requests": [
            {"indices": each.request.indices, "objective": each.objective, "curve": each.curve}
            for each in turn.crafted
        ],
        "queries": turn.meter.queries, "predictions": turn.meter.predictions,
        "operator_calls": turn.meter.operator_calls, "seconds": turn.seconds,
    }  # fmt: skip


def _from_record(record: Mapping[str, Any]) -> CraftingRun:
    requests = tuple(
        AttackResult(Request(tuple(each["indices"])), float(each["objective"]), tuple(float(c) for c in each["curve"]))
        for each in record["requests"]
    )
    meter = Meter(record["queries"], record["predictions"], record["operator_calls"])
    return CraftingRun(requests, meter, float(record["seconds"]))
