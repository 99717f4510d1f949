"""One undeleted game with one seed: contribute, delete, publish, read, compare. The record is plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.requester.undeleted import Reconstructor, Release, reconstruct, untouched
from data.randomness import generator
from defenses.none import NoDefense
from games.undeleted.server import OTHER, Statistic, in_turns, median, releases, ridge

if TYPE_CHECKING:
    from games.game import Setup
    from games.undeleted.game import UndeletedGame

    UndeletedSetup = Setup[UndeletedGame]

Judged = Callable[[Sequence[Release]], dict[str, Any]]


def play_one(setup: UndeletedSetup, seed: int) -> dict[str, Any]:
    """Both statistics; each with exact releases, with the defense, and with other people's deletions alone."""
    game = setup.game
    drawn = torch.randperm(len(setup.data.train), generator=generator(seed, "honest"))[: game.honest]
    x = setup.data.train.x.cpu().double().flatten(1)[drawn]
    y = setup.data.train.y.cpu().double()[drawn]
    people = Ridge(*with_rare(x, game.features, game.rare, seed), y, game.decay, game.tolerance)
    return {
        "median": _played(setup, seed, "median", *_median(setup, x.mean(1), game.tolerance)),
        "ridge": _played(setup, seed, "ridge", *_ridge(setup, people, seed)),
    }


def _played(
    setup: UndeletedSetup, seed: int, name: str, own: int, statistic: Statistic, judged: Judged
) -> dict[str, Any]:
    honest, others = setup.game.honest, setup.game.others
    deletions = list(in_turns(own, honest, others))

    def state(order: Sequence[str], policy: Any) -> dict[str, Any]:
        published = releases(statistic, order, policy, generator(seed, "noise", name))
        return {"releases": len(published), "deletions": len(order), **judged(published)}

    defended = not getattr(setup.defense, "accepts_everything", False)
    return {
        "exact": state(deletions, NoDefense()),
        "defended": state(deletions, setup.defense) if defended else None,
        "control": state([OTHER] * min(len(deletions), honest), NoDefense()),
    }


def _median(setup: UndeletedSetup, numbers: Tensor, tolerance: float) -> tuple[int, Statistic, Judged]:
    attack: Reconstructor = setup.attack
    own = attack.numbers(float(numbers.min()), float(numbers.max()))

    def judged(published: Sequence[Release]) -> dict[str, Any]:
        """How many of the other people's `numbers` (n,) are known by rank, and how far off they are."""
        found, truth = attack.values(published), numbers.sort().values
        errors = (found.values - truth[found.ranks]).abs() / numbers.std()
        shown = torch.isin(numbers, torch.stack([each.value for each in published]))
        return {
            "known": len(found.ranks),
            "unknowns": len(numbers),
            "error": float(errors.max()) if len(errors) else None,
            "reconstructed": float((errors <= tolerance).sum()) / len(numbers),
            "wrong": int((errors > tolerance).sum()),
            "published": int(shown.sum()),
        }

    return len(own), median(own, numbers), judged


@dataclass(frozen=True, eq=False)
class Ridge:
    """Other people's records x (n, d) and y (n,); feature j of the first k, 0 or 1, is that of person `alone[j]`."""

    x: Tensor
    alone: Tensor
    y: Tensor
    decay: float
    tolerance: float

    def right(self, features: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Which of the records x (k, d) and y (k,) are those of the one person with each of the `features` (k,)."""
        owners = self.x[:, features].argmax(0)
        truth = torch.cat([self.x[owners], self.y[owners, None]], dim=1)
        close = (torch.cat([x, y[:, None]], dim=1) - truth).norm(dim=1) <= self.tolerance * truth.norm(dim=1)
        return close & (self.x[:, features].sum(0) == 1)


def with_rare(x: Tensor, features: int, rare: int, seed: int) -> tuple[Tensor, Tensor]:
    """Records (n, d) with `rare` features that one person each has, and others of `x` (n, ...) drawn; and who has them.

    Of the data set only features take part in which people differ. Each rare one has a person of its own.
    """
    rng = generator(seed, "features")
    varying = varied(x)
    chosen = varying[torch.randperm(len(varying), generator=rng)[: features - rare]]
    alone = torch.randperm(len(x), generator=rng)[:rare]
    flags = x.new_zeros(len(x), rare)
    flags[alone, torch.arange(rare)] = 1
    return torch.cat([flags, x[:, chosen]], dim=1), alone


def varied(x: Tensor) -> Tensor:
    """Features of `x` (n, d) that are not the same for all."""
    return (x.amax(0) > x.amin(0)).nonzero()[:, 0]


def _ridge(setup: UndeletedSetup, people: Ridge, seed: int) -> tuple[int, Statistic, Judged]:
    attack: Reconstructor = setup.attack
    x, y = attack.records(people.x.shape[1], generator(seed, "own records"))
    truth = people.x.T @ people.x + people.decay * torch.eye(people.x.shape[1], dtype=people.x.dtype)
    binary = ((people.x == 0) | (people.x == 1)).all(0)

    def judged(published: Sequence[Release]) -> dict[str, Any]:
        """What is known of the other people's moments, and how many complete records of rare people are."""
        found = attack.moments(x, y, published)
        features, *rows = reconstruct(found, people.decay, binary)
        right = int(people.right(features, *rows).sum())
        rare = torch.arange(len(people.alone))
        seen = untouched(x, y, published, people.decay, rare)
        return {
            "known": found.rank,
            "unknowns": found.unknowns,
            "error": float((found.a - truth).norm() / truth.norm()) if found.solvable else None,
            "reconstructed": right / len(rare),
            "wrong": len(features) - right,
            "untouched": float(people.right(rare, *seen).sum()) / len(rare) if len(seen[0]) else 0.0,
        }

    return len(x), ridge((x, y), (people.x, people.y), people.decay), judged
