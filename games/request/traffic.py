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
from data.errors import UserError
from data.randomness import generator
from games.request.benign import draw_benign
from games.request.informed import informed
from games.request.settings import Kind, stream_size
from games.request.surrogate import below_cap
from games.request.targets import Targets, reserved_records, unfiltered
from games.request.turns import Parts, streams_of
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
    where requests are spread over `parts` streams, which come one after the other, those of one follow each other, and
    so do as many `benign` batches, which are by their kind. `calibration` batches lie in the reserved part of the
    training set, which nobody else names, but for the attacker's `poison` in every one of them. `probe` is a random
    request of the full budget, on which costs and certificates are measured.
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


def in_sequences(positions: Sequence[Tensor], parts: int) -> list[Parts]:
    """`parts` sets of positions after the other as a sequence."""
    return [positions[first : first + parts] for first in range(0, len(positions), parts)]


def together(positions: Sequence[Tensor], parts: int) -> list[Tensor]:
    """`parts` sets of positions after the other as one."""
    if parts == 1:
        return list(positions)
    return [torch.cat(list(each)).unique() for each in in_sequences(positions, parts)]


def divided(request: Tensor, parts: int, stages: Sequence[int]) -> list[Tensor]:
    """The records of a request (m,) by stream: so many a stage, where it has `stages`, or every parts-th."""
    if stages:
        return list(request.split(list(stages)))
    return [request[j::parts] for j in range(parts)]


def traffic(
    setup: RequestSetup, seed: int, chosen: Targets, requests: Sequence[Tensor], victims: Sequence[Victim],
    strategy: Adaptive, stages: Sequence[Sequence[int]] = (),
) -> Traffic:  # fmt: skip
    """The traffic of the game with the root seed `seed` whose attack asked for `requests`, as its `strategy` says.

    `stages` are by request how many of its records, in their order, come in each stream; empty where it has none.
    """
    settings = setup.game.stream
    service = OpenService(setup.task, setup.procedure, tuple(victims), (seed,) * len(victims))
    attacker = informed(setup, seed, service, chosen.goals)
    poison = strategy.poison(service, attacker).cpu()
    controls = random_controls(setup, seed, requests, attacker, service, strategy)
    parts, pairs = streams_of(setup.attack, strategy), list[tuple[Stream, Stream]]()
    if any(len(each) != parts for each in stages):
        raise UserError(f"The attack comes in {parts} streams (its `streams`), and a request of it in other `stages`.")
    for i, both in enumerate(zip(requests, controls, strict=True)):
        own = [divided(each, parts, stages[i] if stages else ()) for each in both]
        pairs += stream_pairs(setup, seed, i, own[0], own[1], poison)
    size = stream_size(setup.attack, settings)
    kinds: list[Kind] = [settings.benign, *([settings.harder] if settings.harder else [])]
    batches = 0 if unfiltered(setup) else settings.calibration_batches
    return Traffic(
        requests, controls, nearest_controls(chosen, requests, attacker),
        [mine for mine, _ in pairs], [control for _, control in pairs],
        {k: benign_batches(setup, seed, k, settings.benign_batches, size, poison, parts) for k in dict.fromkeys(kinds)},
        calibration_batches(setup, seed, batches, size, poison), probe(setup, seed, attacker), parts, poison,
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
    setup: RequestSetup, seed: int, number: int, request: Sequence[Tensor], control: Sequence[Tensor], aside: Tensor
) -> list[tuple[Stream, Stream]]:
    """The streams of a request, whose records are given by stream, and those of its control.

    No benign record is in two of them, or in `aside`.
    """
    if len(request) == 1:
        return [stream_pair(setup, seed, (number,), request[0], control[0], aside)]
    taken, pairs = torch.cat([*request, *control, aside.to(request[0].device)]).cpu(), []
    for j, both in enumerate(zip(request, control, strict=True)):
        pairs.append(stream_pair(setup, seed, (number, j), *both, taken))
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


def benign_batches(
    setup: RequestSetup, seed: int, kind: Kind, count: int, size: int, aside: Tensor, parts: int = 1
) -> list[Tensor]:
    """`count` sequences of `parts` batches of `size` benign records, outside the reserved part and `aside`.

    Those of one sequence have no record in common.
    """
    found = []
    for i in range(count):
        outside = ~reserved_mask(setup, seed)
        outside[aside] = False
        for j in range(parts):
            rng = generator(seed, "benign", kind, i, *([j] if j else []))
            batch = draw_benign(kind, setup.task.records, outside.nonzero()[:, 0], size, rng)
            outside[batch] = False
            found.append(batch.to(setup.device))
    return found


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
