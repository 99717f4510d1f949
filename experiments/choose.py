"""Who is attacked, and with what: the victims, the targets, and the attacker's records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.attack import Aim, Attacker
from data.errors import UserError
from data.randomness import derive, generator
from experiments.kept_models import tensors_of, victim_of
from experiments.setup import Setup, Targets, pool_size
from metrics.uncertainty import confidence
from models.training import initialise
from models.victim import Victim
from unlearning.procedure import architecture

log = logging.getLogger(__name__)
SIGN = {"over": -1, "under": 1}


@dataclass(frozen=True, eq=False)
class Chosen:
    """The targets of a game: test positions (T,), predicted labels (T,), directions, and the aim of each."""

    positions: Tensor
    labels: Tensor
    directions: tuple[str, ...]
    aim_of: Tensor
    aims: tuple[Aim, ...]
    aim_directions: tuple[str, ...]


def learn(setup: Setup, seed: int) -> Victim:
    """The victim of `seed`, from the store where it is there."""

    if setup.procedure.secret:
        victim = setup.procedure.learn(setup.task, seed)
        log.info("Victim of seed %d: trained, and not kept, since its procedure draws secret noise.", seed)
        return victim
    key = {**setup.victim_key(), "seed": seed}
    tensors, hit = setup.store.tensors("victim", key, lambda: tensors_of(setup.procedure.learn(setup.task, seed)))
    log.info("Victim of seed %d: %s.", seed, "taken from the store" if hit else "trained")
    module = initialise(architecture(setup.procedure, setup.task), seed, setup.task.records.x)[0]
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
                "Only %d test examples lie in targets.%s=[%g, %g]; all are taken.", len(inside), direction, low, high
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
        Aim(x[every[group]], labels[group], SIGN[direction])
        for group, direction in zip(groups, aim_directions, strict=True)
    )
    return Chosen(every, labels, tuple(directions), aim_of, aims, aim_directions)


def choose_attacker(setup: Setup, seed: int) -> Attacker:
    """The records that the attacker owns, its candidates among them, and its reference examples."""
    records = setup.task.records
    owned = torch.randperm(len(records), generator=generator(seed, "owned"))[: round(setup.attack.owned * len(records))]
    order = torch.randperm(len(owned), generator=generator(seed, "pool"))[: pool_size(setup.attack, len(records))]
    pool = owned[order].sort().values.to(records.x.device)
    return Attacker(pool, records[pool], setup.data.auxiliary)


def benign_batches(setup: Setup, seed: int, name: str, count: int, size: int) -> list[Tensor]:
    """`count` batches of `size` distinct records, drawn from all of the training set."""
    n = len(setup.task.records)
    return [torch.randperm(n, generator=generator(seed, name, i))[:size].to(setup.device) for i in range(count)]


def streams(setup: Setup, seed: int, requests: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each malicious request mixed with its benign share, in random order: positions and which of them are malicious.

    An empty request gives a benign stream of the size that a full one would have.
    """
    mixed, share = [], setup.settings.stream.benign_per_malicious
    for i, request in enumerate(requests):
        rng = generator(seed, "stream", i)
        outside = torch.ones(len(setup.task.records), dtype=torch.bool)
        outside[request.cpu()] = False
        others = outside.nonzero()[:, 0]
        size = share * len(request) if len(request) else (1 + share) * setup.attack.budget
        benign = others[torch.randperm(len(others), generator=rng)[:size]]
        both = torch.cat([request.cpu(), benign])
        order = torch.randperm(len(both), generator=rng)
        mixed.append((both[order].to(setup.device), (order < len(request)).to(setup.device)))
    return mixed
