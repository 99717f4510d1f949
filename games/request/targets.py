"""Who is attacked, and with what: the victims, the targets, and the attacker's records."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.attack import Attacker, AttackGoal
from data.errors import UserError
from data.randomness import derive, generator
from experiments.play.settings import Targets, pool_size, reserved_count
from experiments.play.setup import Setup
from metrics.uncertainty import confidence
from models.named_tensors import tensors_of, victim_of
from models.training import initialise
from models.victim import Victim
from unlearning.procedure import learned

log = logging.getLogger(__name__)
SIGN = {"over": -1, "under": 1}


@dataclass(frozen=True, eq=False)
class Chosen:
    """The targets of a game: test positions (T,), predicted labels (T,), directions, and the aim of each."""

    positions: Tensor
    labels: Tensor
    directions: tuple[str, ...]
    aim_of: Tensor
    aims: tuple[AttackGoal, ...]
    aim_directions: tuple[str, ...]


def learn(setup: Setup, seed: int) -> Victim:
    """The victim of `seed`, from the store where it is there."""

    if setup.procedure.irreproducible:
        victim = learned(setup.procedure, setup.task, seed)
        log.info("Victim of seed %d: trained, and not kept, since its procedure draws secret noise.", seed)
        return victim
    key = {**setup.victim_key(), "seed": seed}
    tensors, hit = setup.store.tensors("victim", key, lambda: tensors_of(learned(setup.procedure, setup.task, seed)))
    log.info("Victim of seed %d: %s.", seed, "taken from the store" if hit else "trained")
    module = initialise(setup.procedure.architecture(setup.task), seed, setup.task.records.x)[0]
    return victim_of(tensors, module, setup.device)


def member_seeds(setup: Setup, seed: int) -> list[int]:
    """The seeds of the victims: more than one for an attack on an ensemble."""
    members = getattr(getattr(setup.attack, "functional", None), "members", 1)
    return [seed, *(derive(seed, "member", i) for i in range(1, members))]


def choose_targets(targets: Targets, probabilities: Tensor, x: Tensor, seed: int) -> Chosen:
    """Draw targets whose confidence lies in the band of their direction, from the test set; p (n, K), x (n, ...).

    Where a band holds fewer than `count`, all of them are taken and that is said. Raises UserError where it holds none.
    """
    top, predicted = confidence(probabilities).to(probabilities.device), probabilities.argmax(-1)
    positions, directions = [], []
    for direction in targets.directions:
        low, high = getattr(targets, direction)
        inside = ((top > low) & (top < high)).nonzero()[:, 0]
        if len(inside) == 0:
            raise UserError(f"No test example has a confidence in targets.{direction}=[{low}, {high}]; widen the band.")
        if len(inside) < targets.count:
            log.warning(
                "targets.%s=[%g, %g] holds no more than %d of the test examples; all are taken.",
                direction,
                low,
                high,
                len(inside),
            )
        draw = torch.randperm(len(inside), generator=generator(seed, "targets", direction))[: targets.count]
        picked = inside[draw.sort().values.to(inside.device)]
        positions.append(picked)
        directions += [direction] * len(picked)
    every = torch.cat(positions)
    labels = predicted[every]
    if targets.mode == "single":
        aim_of, aim_directions = torch.arange(len(every)), tuple(directions)
        groups = [torch.tensor([i]) for i in range(len(every))]
    else:
        sizes = [len(part) for part in positions]
        if len(set(sizes)) > 1:  # the aims of one attack are evaluated together, so they have equally many targets
            sizes = [min(sizes)] * len(sizes)
            keep = torch.cat(
                [torch.arange(min(sizes)) + sum(len(p) for p in positions[:i]) for i in range(len(positions))]
            )
            every, labels, directions = every[keep], labels[keep], [directions[i] for i in keep.tolist()]
        aim_of, aim_directions = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), targets.directions
        groups = list(torch.arange(len(every)).split(sizes))
    aims = tuple(
        AttackGoal(x[every[group]], labels[group], SIGN[direction])
        for group, direction in zip(groups, aim_directions, strict=True)
    )
    return Chosen(every, labels, tuple(directions), aim_of, aims, aim_directions)


def reserved_records(setup: Setup, seed: int) -> Tensor:
    """The records that the provider's calibration is drawn from, and that no request names; sorted positions.

    They stand for records whose owners the provider knows, such as its own.
    """
    n = len(setup.task.records)
    count = reserved_count(setup.settings.stream, n)
    return torch.randperm(n, generator=generator(seed, "reserved"))[:count].sort().values


def choose_attacker(setup: Setup, seed: int) -> Attacker:
    """The records that the attacker owns, its candidates among them, and its reference examples."""
    records = setup.task.records
    free = torch.ones(len(records), dtype=torch.bool)
    free[reserved_records(setup, seed)] = False
    order = torch.randperm(len(records), generator=generator(seed, "owned"))
    owned = order[free[order]][: round(setup.attack.owned * len(records))]
    size = pool_size(setup.attack, setup.settings.stream, len(records))
    chosen = torch.randperm(len(owned), generator=generator(seed, "pool"))[:size]
    pool = owned[chosen].sort().values.to(records.x.device)
    return Attacker(pool, records[pool], setup.data.auxiliary)
