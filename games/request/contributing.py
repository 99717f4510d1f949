"""The game on the records that are trained on: what everybody handed in, an attacker too, as it was prepared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.crafting.contribution import Contributes, Contribution, contributed, differing, with_contribution
from data.examples import Examples
from data.randomness import generator
from defenses.provider import prepared, preparing
from games.request.targets import Targets, choose_attacker
from models.named_tensors import digest

if TYPE_CHECKING:
    from games.game import Keys
    from games.request.targets import RequestSetup

CODE = ("games.request.contributing",)
PLACES = ("attack", "unlearning", "game.targets", "game.stream.reserved")


@dataclass(frozen=True)
class HandedIn:
    """Keys of models and games on records that are named by their hash, beside the data set that they come from."""

    keys: Keys
    records: str

    def victim(self) -> dict[str, Any]:
        """Of a trained victim."""
        return self._named(self.keys.victim())

    def trained(self, code: Sequence[str] = ()) -> dict[str, Any]:
        """Of models that are trained plainly."""
        return self._named(self.keys.trained(code))

    def game(self) -> dict[str, Any]:
        """Of the record of a game."""
        return self._named(self.keys.game())

    def of(self, *places: str, code: Sequence[str] = ()) -> dict[str, Any]:
        """Of what follows from a victim, its procedure, and the settings at `places`."""
        return self._named(self.keys.of(*places, code=code))

    def _named(self, key: Mapping[str, Any]) -> dict[str, Any]:
        return {**key, "records": self.records}


def on_what_was_handed_in(setup: RequestSetup, seed: int, chosen: Targets) -> tuple[RequestSetup, Targets]:
    """The setup on the records that the attacker's are part of, and the targets with what was contributed for them.

    What it contributes comes from the store where it is there. Where it hands in the records as they were, the setup
    stays what it is, and its victims serve.
    """
    began = perf_counter()
    given, seconds = _stored(setup, seed, chosen)
    goals = tuple(with_contribution(chosen.goals, given))
    shown = torch.cat([goal.x for goal in goals]) if given.shown is not None else None
    chosen = replace(chosen, goals=goals, shown=shown, seconds=seconds, now=perf_counter() - began)
    return (setup if given.records is setup.task.records else on_records(setup, given.records)), chosen


def on_records(setup: RequestSetup, records: Examples) -> RequestSetup:
    """The setup with other training records than its own, which the keys of all that follows from them name."""
    keys = HandedIn(setup.keys, digest({"x": records.x, "y": records.y}))
    task, data = replace(setup.task, records=records), replace(setup.data, train=records)
    return replace(setup, task=task, data=data, keys=keys)


def as_prepared(setup: RequestSetup) -> RequestSetup:
    """The setup on its records as the defense prepares them, which the keys name; itself where nothing changes."""
    prepares, before = preparing(setup.defense), setup.task.records
    records = before if prepares is None else prepared(prepares, before)
    return setup if torch.equal(records.x, before.x) else on_records(setup, records)


def _stored(setup: RequestSetup, seed: int, chosen: Targets) -> tuple[Contribution, float]:
    """What is contributed, and the seconds that it took to make."""
    attacker, rng, before = choose_attacker(setup, seed), generator(seed, "contribution"), setup.task.records

    def made() -> dict[str, Tensor]:
        assert isinstance(setup.attack, Contributes)
        began = perf_counter()
        given = contributed(setup.attack, setup.task, setup.data, chosen.goals, attacker, rng)
        rows = differing(given.records, before).nonzero()[:, 0]  # others are in the data set already
        found = {"rows": rows, "x": given.records.x[rows], "y": given.records.y[rows]}
        found |= {f"{i}/requested": each for i, each in enumerate(given.requested)}
        found["seconds"] = torch.tensor(perf_counter() - began)
        return found | {f"{i}/shown": each for i, each in enumerate(given.shown or ())}

    key = {**setup.keys.of(*PLACES, code=CODE), "seed": seed}
    tensors, _ = setup.store.tensors("contribution", key, made)
    here = {name: value.to(setup.device) for name, value in tensors.items()}
    records = before
    if len(here["rows"]):
        records = Examples(before.x.clone(), before.y.clone())
        records.x[here["rows"]], records.y[here["rows"]] = here["x"], here["y"]
    goals = range(len(chosen.goals))
    shown = [here[f"{i}/shown"] for i in goals] if "0/shown" in here else None
    given = Contribution(records, [here[f"{i}/requested"].cpu() for i in goals], shown)
    return given, float(here["seconds"])
