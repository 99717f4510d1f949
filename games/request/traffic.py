"""All that is asked of the provider in one game: requests, controls, streams, benign and calibration batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attacks.adaptive.strategy import Adaptive
from attacks.crafting.attack import Attacker
from attacks.requester.nearest import nearest_records
from data.randomness import generator
from games.request.benign import draw_benign
from games.request.informed import informed
from games.request.settings import Kind, stream_size
from games.request.surrogate import below_cap
from games.request.targets import Targets, reserved_records, unfiltered
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
    nothing); `streams` mix a request with benign ones, `random_streams` its random control with the same benign ones;
    where requests are spread over `parts` streams, those of one follow each other. `benign` are benign batches by their
    kind. `calibration` batches lie in the reserved part of the training set, which nobody else names, but for the
    attacker's `poison` in every one of them. `probe` is a random request of the full budget, on which costs and
    certificates are measured.
    """

    requests: Sequence[Tensor]
    random: Sequence[Tensor]
    nearest: Sequence[Tensor]
    streams: Sequence[Stream]
    random_streams: Sequence[Stream]
    benign: dict[Kind, Sequence[Tensor]]
    calibration: Sequence[Tensor]
    probe: Tensor
    parts: int = 1
    poison: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def whole(self, streams: Sequence[Stream]) -> list[Tensor]:
        """Of every request the positions of all its streams together."""
        return together([stream.positions for stream in streams], self.parts)


def together(positions: Sequence[Tensor], parts: int) -> list[Tensor]:
    """`parts` sets of positions after the other as one."""
    if parts == 1:
        return list(positions)
    return [torch.cat(list(positions[first : first + parts])).unique() for first in range(0, len(positions), parts)]


def traffic(
    setup: RequestSetup, seed: int, chosen: Targets, requests: Sequence[Tensor], victims: Sequence[Victim],
    strategy: Adaptive,
) -> Traffic:  # fmt: skip
    """The traffic of the game with the root seed `seed` whose attack asked for `requests`, as its `strategy` says."""
    settings = setup.game.stream
    service = OpenService(setup.task, setup.procedure, tuple(victims), (seed,) * len(victims))
    attacker = informed(setup, seed, service, chosen.goals)
    poison = strategy.poison(service, attacker).cpu()
    controls = random_controls(setup, seed, requests, attacker, service, strategy)
    asked = enumerate(zip(requests, controls, strict=True))
    pairs = [pair for i, each in asked for pair in stream_pairs(setup, seed, i, *each, strategy.parts, poison)]
    size = stream_size(setup.attack, settings)
    kinds: list[Kind] = [settings.benign, *([settings.harder] if settings.harder else [])]
    batches = 0 if unfiltered(setup) else settings.calibration_batches
    return Traffic(
        requests, controls, nearest_controls(chosen, requests, attacker),
        [mine for mine, _ in pairs], [control for _, control in pairs],
        {k: benign_batches(setup, seed, k, settings.benign_batches, size, poison) for k in dict.fromkeys(kinds)},
        calibration_batches(setup, seed, batches, size, poison), probe(setup, seed, attacker), strategy.parts, poison,
    )  # fmt: skip


def random_controls(
    setup: RequestSetup, seed: int, requests: Sequence[Tensor], attacker: Attacker, service: OpenService,
    strategy: Adaptive,
) -> list[Tensor]:  # fmt: skip
    """For each request as many records at random, of those that the attack may name, as norm cap and strategy say.

    An attacker without access caps the norms of its surrogate, and so its control is drawn below these.
    """
    cap = getattr(setup.attack, "norm_cap", None)
    if cap is not None and setup.attack.access == "transfer":
        pool = below_cap(setup, seed, attacker, cap).pool.cpu()
    else:
        pool = strategy.narrow(service, attacker, setup.attack.budget, cap).pool.cpu()
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


def stream_pairs(
    setup: RequestSetup, seed: int, number: int, request: Tensor, control: Tensor, parts: int, aside: Tensor
) -> list[tuple[Stream, Stream]]:
    """The `parts` streams of a request, with every parts-th record of it in each, and those of its control.

    No benign record is in two of them, or in `aside`.
    """
    if parts == 1:
        return [stream_pair(setup, seed, (number,), request, control, aside)]
    taken, pairs = torch.cat([request.cpu(), control.cpu(), aside]), []
    for j in range(parts):
        pairs.append(stream_pair(setup, seed, (number, j), request[j::parts], control[j::parts], taken))
        taken = torch.cat([taken, pairs[-1][0].positions.cpu()])
    return pairs


def stream_pair(
    setup: RequestSetup, seed: int, number: tuple[int, ...], request: Tensor, control: Tensor, aside: Tensor
) -> tuple[Stream, Stream]:
    """The stream of a request and that of its control: the same benign records, none of them in either, one order.

    None is in `aside` either. Every stream has the size of the calibration batches (`stream_size`), whatever the
    request's own: a model moves the farther the more is forgotten, and so do the scores of a filter.
    """
    rng, settings = generator(seed, "stream", *number), setup.game.stream
    outside = ~reserved_mask(setup, seed)
    outside[torch.cat([request.cpu(), control.cpu(), aside])] = False
    size = stream_size(setup.attack, settings) - len(request)
    benign = draw_benign(settings.benign, setup.task.records, outside.nonzero()[:, 0], size, rng)
    order = torch.randperm(len(request) + size, generator=rng)
    malicious = (order < len(request)).to(setup.device)
    return (
        Stream(torch.cat([request.cpu(), benign])[order].to(setup.device), malicious),
        Stream(torch.cat([control.cpu(), benign])[order].to(setup.device), malicious),
    )


def benign_batches(setup: RequestSetup, seed: int, kind: Kind, count: int, size: int, aside: Tensor) -> list[Tensor]:
    """`count` batches of `size` benign records of the training set, outside the reserved part and `aside`."""
    outside = ~reserved_mask(setup, seed)
    outside[aside] = False
    eligible = outside.nonzero()[:, 0]
    return [
        draw_benign(kind, setup.task.records, eligible, size, generator(seed, "benign", kind, i)).to(setup.device)
        for i in range(count)
    ]


def calibration_batches(setup: RequestSetup, seed: int, count: int, size: int, poison: Tensor) -> list[Tensor]:
    """`count` batches of `size`: the `poison`, and records drawn uniformly from the reserved part."""
    reserved = reserved_records(setup, seed)
    draws = [generator(seed, "calibration", i) for i in range(count)]
    benign = [draw_benign("uniform", setup.task.records, reserved, size - len(poison), rng) for rng in draws]
    return [torch.cat([batch, poison]).to(setup.device) for batch in benign]


def reserved_mask(setup: RequestSetup, seed: int) -> Tensor:
    """Which records (n,) are reserved for calibration."""
    mask = torch.zeros(len(setup.task.records), dtype=torch.bool)
    mask[reserved_records(setup, seed)] = True
    return mask
