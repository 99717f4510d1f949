"""Baseline: delete the records that lie nearest to the targets, which takes no gradient and no search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.access import AccessMode
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.requester import OPTIONS, Requester
from models.last_layer import features
from models.victim import Victim
from unlearning.procedure import Request
from unlearning.service import OpenService, Service

Classes = Literal["auto", "same", "other", "any"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Nearest(Requester):
    """Up to `budget` records of the pool, by Euclidean distance to the targets; several targets take turns.

    `space`: pixels (the inputs as the model gets them; no access is needed) or features (what enters the victim's last
    layer; needs the model, but not the gradient of the procedure), or surrogate (these features of a model that the
    attacker trains itself). `classes`: only records of the label that the victim
    predicts (same), only records of other labels (other), or any; auto is same where confidence is to fall, since they
    hold the prediction up, and other where it is to rise. Labels are not looked after: what a target loses may be its
    label. A request is shorter than `budget` where fewer such records are there.
    """

    name: ClassVar[str] = "nearest"
    needs_gradient: ClassVar[bool] = False
    space: Literal["pixels", "features", "surrogate"] = "pixels"
    classes: Classes = "auto"

    @property
    def access(self) -> AccessMode:
        """Features are inside the model, or a surrogate, pixels are not."""
        by_space: dict[str, AccessMode] = {"features": "white_box", "surrogate": "transfer"}
        return by_space.get(self.space, "black_box")

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """The nearest records in the features of the victims, the nearest first."""
        return self._nearest(goals, attacker, partial(features_of_all, service.victims))

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """The nearest records in pixels, the nearest first; the service is not asked."""
        return self._nearest([goal], attacker, pixels)[0]

    def _nearest(
        self, goals: Sequence[AttackGoal], attacker: Attacker, represent: Callable[[Tensor], Tensor]
    ) -> list[AttackResult]:
        positions = nearest_records(goals, attacker, self.budget, self.classes, represent)
        return [AttackResult(Request(tuple(row.tolist())), float("nan")) for row in positions]


def pixels(x: Tensor) -> Tensor:
    """Inputs (n, *shape) as points (n, d)."""
    return x.flatten(1)


def features_of_all(victims: Sequence[Victim], x: Tensor) -> Tensor:
    """The features (n, d) of every victim, side by side."""
    return torch.cat([features(victim, x) for victim in victims], dim=1)


def nearest_records(
    goals: Sequence[AttackGoal],
    attacker: Attacker,
    budget: int,
    classes: Classes = "auto",
    represent: Callable[[Tensor], Tensor] = pixels,
) -> list[Tensor]:
    """For every goal the positions in the training set of the records to delete, at most `budget`, nearest first.

    The first k of them are the answer for a budget of k. The targets of an goal take turns, in their order: each names
    the nearest record that is not named yet, so that no target gets more than one record more than another. Ties go to
    the earlier record of the pool. `represent` maps inputs (n, *shape) to points (n, d).
    """
    pool = represent(attacker.owned.x)
    return [_for(goal, represent(goal.x), pool, attacker, budget, classes) for goal in goals]


def _for(goal: AttackGoal, targets: Tensor, pool: Tensor, attacker: Attacker, budget: int, classes: Classes) -> Tensor:
    # by differences, not by products, which cancel where points lie far from the origin
    distances = torch.cdist(targets, pool, compute_mode="donot_use_mm_for_euclid_dist")
    wanted = ("same" if goal.direction > 0 else "other") if classes == "auto" else classes
    if wanted != "any":
        alike = goal.labels[:, None] == attacker.owned.y
        distances = distances.masked_fill(~alike if wanted == "same" else alike, torch.inf)
    order = distances.argsort(dim=1, stable=True)
    ranked = [row[: int(torch.isfinite(each).sum())].tolist() for row, each in zip(order, distances, strict=True)]
    return attacker.pool[torch.tensor(_in_turn(ranked, budget), dtype=torch.long, device=attacker.pool.device)].cpu()


def _in_turn(ranked: Sequence[Sequence[int]], most: int) -> list[int]:
    """At most `most` distinct entries of the lists, which take turns; one that is used up drops out."""
    waiting = [iter(each) for each in ranked]
    taken: dict[int, None] = {}
    while waiting and len(taken) < most:
        for entries in list(waiting):
            new = next((entry for entry in entries if entry not in taken), None)
            if new is None:
                waiting.remove(entries)
            elif len(taken) < most:
                taken[new] = None
    return list(taken)
