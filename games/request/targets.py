"""Who is attacked, and with what: the victims, the targets, and the attacker's records."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal
from data.errors import UserError
from data.randomness import derive, generator
from games.request.quantities import SIGN
from games.request.settings import TargetSettings, pool_size, reserved_count
from metrics.uncertainty import confidence

if TYPE_CHECKING:
    from games.game import Setup
    from games.request.game import RequestGame

    RequestSetup = Setup[RequestGame]

log = logging.getLogger(__name__)
ROWS = 4096  # examples whose distances are computed at once


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets of a game: test positions (T,), predicted labels (T,), directions, and the goal of each.

    `shown` (T, *shape) are the inputs that they are judged at, where these are others than the test examples.
    `distances` (T,), where targets were chosen by them, are those to the nearest of the filter's trusted examples,
    Euclidean in the inputs, and `usual` the mean of all test examples. `seconds` is what making that took which the
    attacker handed in for them, when it was really made, and `now` how much of it was in this game.
    """

    positions: Tensor
    labels: Tensor
    directions: tuple[str, ...]
    goal_of: Tensor
    goals: tuple[AttackGoal, ...]
    goal_directions: tuple[str, ...]
    shown: Tensor | None = None
    distances: Tensor | None = None
    usual: float | None = None
    seconds: float = 0.0
    now: float = 0.0

    @property
    def handed_in(self) -> int:
        """How many records the attacker contributed that requests name, all targets together."""
        named = [goal.contributed for goal in self.goals if goal.contributed is not None and len(goal.contributed)]
        return len(torch.cat(named).unique()) if named else 0

    def judged_at(self, before: int) -> Tensor:
        """Where predictions have the targets (T,): among the test examples, or after `before` others where shown."""
        if self.shown is None:
            return self.positions
        return before + torch.arange(len(self.positions), device=self.positions.device)


def accepts_all(defense: Any) -> bool:
    """Whether a defense accepts every request, so that there is nothing to calibrate."""
    return bool(getattr(defense, "accepts_everything", False))


def unfiltered(setup: RequestSetup) -> bool:
    """Whether every request of a game is accepted."""
    return accepts_all(setup.defense)


def member_seeds(setup: RequestSetup, seed: int) -> list[int]:
    """The seeds of the victims: more than one for an attack on an ensemble."""
    members = getattr(getattr(setup.attack, "functional", None), "members", 1)
    return [seed, *(derive(seed, "member", i) for i in range(1, members))]


def choose_targets(
    targets: TargetSettings, probabilities: Tensor, x: Tensor, seed: int, toward: int | None = None,
    far: tuple[float, Tensor] | None = None,
) -> Targets:  # fmt: skip
    """Draw targets whose confidence lies in the band of their direction, from the test set; p (n, K), x (n, ...).

    None has the label `toward` that targets are to get. With `far`, a share and trusted inputs (t, ...), they are
    drawn from the share of a band, rounded up, that lies farthest from the nearest of these. Where a band holds
    fewer than `count`, all of them are taken and that is said. Raises UserError where it holds none.
    """
    top, predicted = confidence(probabilities).to(probabilities.device), probabilities.argmax(-1)
    if toward is not None:
        top = top.masked_fill((predicted == toward).to(top.device), -1.0)  # outside of every band
    distances = None if far is None else nearest_distance(x, far[1])
    apart = None if far is None or distances is None else (far[0], distances)
    drawn = {direction: _in_band(targets, direction, top, seed, apart) for direction in targets.directions}
    if targets.mode == "set":  # the goals of one attack are evaluated together, so they have equally many targets
        fewest = min(map(len, drawn.values()))
        drawn = {direction: each[:fewest] for direction, each in drawn.items()}
    positions = torch.cat(list(drawn.values()))
    labels = predicted[positions]
    directions = tuple(direction for direction, each in drawn.items() for _ in range(len(each)))
    single = targets.mode == "single"
    sizes = [1] * len(positions) if single else [len(each) for each in drawn.values()]
    goal_directions = directions if single else tuple(drawn)
    goals = tuple(
        AttackGoal(x[positions[mine]], labels[mine], -SIGN[direction])  # +1 raises uncertainty
        for mine, direction in zip(torch.arange(len(positions)).split(sizes), goal_directions, strict=True)
    )
    goal_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    plain = Targets(positions, labels, directions, goal_of, goals, goal_directions)
    if distances is None:
        return plain
    return replace(plain, distances=distances[positions.to(distances.device)], usual=float(distances.mean()))


def nearest_distance(x: Tensor, points: Tensor) -> Tensor:
    """The Euclidean distance (n,) of inputs x (n, *shape) from the nearest of `points` (t, *shape), float64.

    Raises UserError where there are no points.
    """
    if not len(points):
        raise UserError("game.targets.far needs trusted examples, and there are none; keep some in the data set.")
    flat, among = x.flatten(1), points.flatten(1)
    return torch.cat([torch.cdist(part, among).amin(1).double() for part in flat.split(ROWS)])


def _in_band(
    targets: TargetSettings, direction: str, confidences: Tensor, seed: int, far: tuple[float, Tensor] | None = None
) -> Tensor:
    """Positions of up to `count` test examples in the band of a direction, drawn at random, in order.

    With `far`, a share and the distance of every example, of the share with the largest distances.
    """
    low, high = getattr(targets, direction)
    inside = ((confidences > low) & (confidences < high)).nonzero()[:, 0]
    band = f"game.targets.{direction}=[{low:g}, {high:g}]"
    if len(inside) == 0:
        raise UserError(f"No test example has a confidence in {band}; widen the band.")
    if far is not None:
        most = max(1, ceil(far[0] * len(inside)))
        inside = inside[far[1].to(inside.device)[inside].topk(most).indices.sort().values]
    if len(inside) < targets.count:
        log.warning("%s holds no more than %d of the test examples; all are taken.", band, len(inside))
    draw = torch.randperm(len(inside), generator=generator(seed, "targets", direction))[: targets.count]
    return inside[draw.sort().values.to(inside.device)]


def reserved_records(setup: RequestSetup, seed: int) -> Tensor:
    """The records that the provider's calibration is drawn from, and that no request names; sorted positions.

    They stand for records whose owners the provider knows, such as its own.
    """
    n = len(setup.task.records)
    count = reserved_count(setup.game.stream, n)
    return torch.randperm(n, generator=generator(seed, "reserved"))[:count].sort().values


def choose_attacker(setup: RequestSetup, seed: int) -> Attacker:
    """The records that the attacker owns, its candidates among them, and its reference examples."""
    records = setup.task.records
    free = torch.ones(len(records), dtype=torch.bool)
    free[reserved_records(setup, seed)] = False
    order = torch.randperm(len(records), generator=generator(seed, "owned"))
    owned = order[free[order]][: round(setup.attack.owned * len(records))]
    size = pool_size(setup.attack, setup.game.stream, len(records))
    chosen = torch.randperm(len(owned), generator=generator(seed, "pool"))[:size]
    pool = owned[chosen].sort().values.to(records.x.device)
    return Attacker(pool, records[pool], setup.data.auxiliary)
