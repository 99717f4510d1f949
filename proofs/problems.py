"""What a verifier expects of a proof, and what it finds: `Expected` and `Problem`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.plan import Plan
from models.training import Build, Training, initialise
from models.victim import Victim
from proofs.header import Recipe
from proofs.reader import Proof

FARTHER = 0.05  # of a random walk of its own steps a proof must end away from the model before deletion


@dataclass(frozen=True)
class Problem:
    """Something in a proof that is not as it should be.

    `check` found it, `step` is the first at which it is so, `field` what of the header or of a step it is about; either
    is None where there is none. `text` is a sentence.
    """

    check: str
    step: int | None
    field: str | None
    text: str


@dataclass(frozen=True, eq=False)
class Expected:
    """What a verifier knows without the proof, and holds it against.

    `records` are all records, those at the positions `deleted` (d,) among them; `build` makes the architecture. The
    rest may be None, and is then not held against the proof: `training`, the declared recipe; `order`, the seed that
    the verifier chose for the order of the retained records; `every`, the steps from one checkpoint to the next; the
    model that was `released`, and that from `before` the deletion; whether the declared procedure `begins` with a fresh
    draw ("seed") or with the model before ("model"). A proof must end at least `farther` away from the model before, in
    units of a random walk (`proofs.states`).
    """

    records: Examples
    deleted: Tensor
    build: Build
    training: Training | None = None
    order: int | None = None
    every: int | None = None
    released: Victim | None = None
    before: Victim | None = None
    begins: str | None = None
    farther: float = FARTHER
    _draws: dict[int, Victim] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def kept(self) -> Tensor:
        """Which records were retained, (n,)."""
        found = torch.ones(len(self.records), dtype=torch.bool)
        found[self.deleted.cpu()] = False
        return found

    @cached_property
    def retained(self) -> Tensor:
        """The positions of the retained records, in their order."""
        return self.kept.nonzero()[:, 0]

    def draw(self, seed: int) -> Victim:
        """The architecture with weights drawn from `seed`; drawn once."""
        if seed not in self._draws:
            self._draws[seed] = Victim(*initialise(self.build, seed, self.records.x))
        return self._draws[seed]


def recipe_in(header_recipe: Recipe) -> Training | None:
    """The recipe of a header as models are trained by it; None where nobody is."""
    try:
        return header_recipe.training()
    except ValueError:
        return None


def plan_of(proof: Proof, expected: Expected) -> Plan | None:
    """How the declared recipe, or else the proof's, goes over the retained records; None where it fills no batch."""
    training = expected.training or recipe_in(proof.header.recipe)
    try:
        return None if training is None else Plan(training, len(expected.retained))
    except UserError:
        return None
