"""All that is asked of the provider in one game: requests, controls, streams, benign and calibration batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attacks.crafting.attack import Attacker
from attacks.crafting.norm_cap import below_norm_quantile
from attacks.requester.nearest import nearest_records
from data.randomness import generator
from games.request.benign import draw_benign
from games.request.settings import Kind, stream_size
from games.request.surrogate import below_cap
from games.request.targets import Targets, choose_attacker, reserved_records, unfiltered
from models.victim import Victim
from unlearning.service import OpenService

if TYPE_CHECKING:
    from games.request.targets import RequestSetup


@dataclass(frozen=True, eq=False)
class Stream:
    """A request mixed with benign ones, in random order: positions (s,), and which of them are the request's (s,)."""

    positions: Tensor
    malicious: Tensor


@dataclass(frozen=True, eq=False)
class Traffic:
    """What is forgotten in one game, all as positions in the training set.

    `requests` are those of the attack, `random` and `nearest` their controls of the same size (nothing for a request of
    nothing); `streams` mix a request with benign ones, `random_streams` its random control with the same benign ones.
    `benign` are benign batches by their kind. `calibration` batches lie in the reserved part of the training set, which
    nobody else names. `probe` is a random request of the full budget, on which costs and certificates are measured.
    """

    requests: Sequence[Tensor]
    random: Sequence[Tensor]
    nearest: Sequence[Tensor]
    streams: Sequence[Stream]
    random_streams: Sequence[Stream]
    benign: dict[Kind, Sequence[Tensor]]
    calibration: Sequence[Tensor]
    probe: Tensor


def traffic(
    setup: RequestSetup, seed: int, chosen: Targets, requests: Sequence[Tensor], victims: Sequence[Victim]
) -> Traffic:
    """The traffic of the game with the root seed `seed` whose attack asked for `requests`."""
    settings = setup.game.stream
    attacker = choose_attacker(setup, seed)
    controls = random_controls(setup, seed, requests, attacker, victims)
    pairs = [stream_pair(setup, seed, i, *each) for i, each in enumerate(zip(requests, controls, strict=True))]
    size = stream_size(setup.attack, settings)
    kinds: list[Kind] = [settings.benign, *([settings.harder] if settings.harder else [])]
    batches = 0 if unfiltered(setup) else settings.calibration_batches
    return Traffic(
        requests, controls, nearest_controls(chosen, requests, attacker),
        [mine for mine, _ in pairs], [control for _, control in pairs],
        {kind: benign_batches(setup, seed, kind, settings.benign_batches, size) for kind in dict.fromkeys(kinds)},
        calibration_batches(setup, seed, batches, size), probe(setup, seed, attacker),
    )  # fmt: skip


def random_controls(
    setup: RequestSetup, seed: int, requests: Sequence[Tensor], attacker: Attacker, victims: Sequence[Victim]
) -> list[Tensor]:
    """For each request as many records at random, of those that the attack may name: its pool, below its norm cap.

    An attacker without access caps the norms of its surrogate, and so its control is drawn below these.
    """
    pool, cap = attacker.pool.cpu(), getattr(setup.attack, "norm_cap", None)
    if cap is not None and setup.attack.access == "transfer":
        pool = below_cap(setup, seed, attacker, cap).pool.cpu()
    elif cap is not None:
        service = OpenService(setup.task, setup.procedure, tuple(victims), (seed,) * len(victims))
        pool = below_norm_quantile(service, attacker, cap, setup.attack.budget).pool.cpu()
    draws = [torch.randperm(len(pool), generator=generator(seed, "control", i)) for i in range(len(requests))]
    return [pool[draw[: len(request)]] for draw, request in zip(draws, requests, strict=True)]


def nearest_controls(chosen: Targets, requests: Sequence[Tensor], attacker: Attacker) -> list[Tensor]:
    """For each request as many records of the pool nearest to its targets, of the classes that serve its direction.

    See `attacks.requester.nearest`; where the pool holds fewer such records, these.
    """
    most = max((len(request) for request in requests), default=0)
    found = nearest_records(chosen.goals, attacker, most)
    return [nearest[: len(request)] for nearest, request in zip(found, requests, strict=True)]


def probe(setup: RequestSetup, seed: int, attacker: Attacker) -> Tensor:
    """A random request of the full budget."""
    pool = attacker.pool.cpu()
    return pool[torch.randperm(len(pool), generator=generator(seed, "probe"))[: setup.attack.budget]]


def stream_pair(setup: RequestSetup, seed: int, number: int, request: Tensor, control: Tensor) -> tuple[Stream, Stream]:
    """The stream of a request and that of its control: the same benign records, none of them in either, one order.

    Every stream has the size of the calibration batches (`stream_size`), whatever the request's own: a
    model moves the farther the more is forgotten, and so do the scores of a filter.
    """
    rng, settings = generator(seed, "stream", number), setup.game.stream
    outside = ~reserved_mask(setup, seed)
    outside[torch.cat([request, control]).cpu()] = False
    size = stream_size(setup.attack, settings) - len(request)
    benign = draw_benign(settings.benign, setup.task.records, outside.nonzero()[:, 0], size, rng)
    order = torch.randperm(len(request) + size, generator=rng)
    malicious = (order < len(request)).to(setup.device)
    return (
        Stream(torch.cat([request.cpu(), benign])[order].to(setup.device), malicious),
        Stream(torch.cat([control.cpu(), benign])[order].to(setup.device), malicious),
    )


def benign_batches(setup: RequestSetup, seed: int, kind: Kind, count: int, size: int) -> list[Tensor]:
    """`count` batches of `size` benign records of the training set, outside the reserved part."""
    eligible = (~reserved_mask(setup, seed)).nonzero()[:, 0]
    return [
        draw_benign(kind, setup.task.records, eligible, size, generator(seed, "benign", kind, i)).to(setup.device)
        for i in range(count)
    ]


def calibration_batches(setup: RequestSetup, seed: int, count: int, size: int) -> list[Tensor]:
    """`count` batches of `size` records drawn uniformly from the reserved part of the training set."""
    reserved = reserved_records(setup, seed)
    draws = [generator(seed, "calibration", i) for i in range(count)]
    return [draw_benign("uniform", setup.task.records, reserved, size, rng).to(setup.device) for rng in draws]


def reserved_mask(setup: RequestSetup, seed: int) -> Tensor:
    """Which records (n,) are reserved for calibration."""
    mask = torch.zeros(len(setup.task.records), dtype=torch.bool)
    mask[reserved_records(setup, seed)] = True
    return mask
