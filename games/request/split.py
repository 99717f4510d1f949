"""Beside an attacker that does not know of the filter one that does: the same requests, each over several streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.adaptive.none import strategy_of
from games.request.detection import Review, measured
from games.request.settings import stream_size
from games.request.targets import unfiltered
from games.request.traffic import Stream, divided, reserved_mask, stream_pairs, together
from games.request.turns import streams_of

if TYPE_CHECKING:
    from games.request.judging import Scene
    from games.request.targets import RequestSetup

LEAST = 2  # streams, or nothing is split


@dataclass(frozen=True, eq=False)
class Split:
    """The `streams` of every request cut into `parts`, one behind the other here, and those of its random control."""

    parts: int
    streams: Sequence[Stream]
    random_streams: Sequence[Stream]

    @property
    def groups(self) -> dict[str, list[Tensor]]:
        """The positions of every stream, by name."""
        return {
            "split": [stream.positions for stream in self.streams],
            "split_random": [stream.positions for stream in self.random_streams],
        }


def split_requests(
    setup: RequestSetup, seed: int, requests: Sequence[Tensor], controls: Sequence[Tensor], copies: bool
) -> Split | None:
    """The requests and their random controls, cut into `game.stream.split` parts, or as many as there are records for.

    It is `attack/adaptive=splitting` by accounts that ask at one time, with the benign records of its own game. None
    where the attacker knows of the filter or spreads its requests itself, where nothing decides or was requested, where
    requests bring `copies`, or where the records do not fill two streams.
    """
    wanted, strategy = setup.game.stream.split, strategy_of(setup.attack)
    if wanted is None or strategy.name != "none" or streams_of(setup.attack, strategy) > 1:
        return None
    if copies or unfiltered(setup) or not any(len(request) for request in requests):
        return None
    free = int((~reserved_mask(setup, seed)).sum())
    parts = min(wanted, (free - setup.attack.budget) // stream_size(setup.attack, setup.game.stream))
    if parts < LEAST:
        return None
    nobody = torch.empty(0, dtype=torch.long)
    pairs = list[tuple[Stream, Stream]]()
    for i, both in enumerate(zip(requests, controls, strict=True)):
        mine, control = (divided(each, parts, ()) for each in both)
        pairs += stream_pairs(setup, seed, i, mine, control, nobody)
    return Split(parts, [mine for mine, _ in pairs], [control for _, control in pairs])


def judge_split(scene: Scene, asked: Split | None, review: Review) -> dict[str, Any] | None:
    """What became of the targets after everything that the filter accepted of all parts, and what it made of them.

    `attack` and `random` are the states of the targets, judged with the victim's own seed; by direction follows how
    well malicious records were told from benign ones. The filter is calibrated as in `review`, and sees every stream
    with the model as it was: accounts of one attacker ask at one time.
    """
    if asked is None:
        return None
    found, groups = review.also(asked.groups), asked.groups
    looks = {name: found.look(name) for name in groups}
    label = "judging requests that are split"
    scene.judge.after(scene.victims, scene.seeds, groups, looks, label, unseen=tuple(groups))
    left = {name: together(found.accepted(name), asked.parts) for name in groups}
    after = scene.defended.after(scene.victims, scene.seeds, left, label=label)
    attack, random = (scene.observer.targets(after[name]) for name in groups)
    return {"parts": asked.parts, "attack": attack, "random": random, **_told_apart(scene, asked, found)}


def _told_apart(scene: Scene, asked: Split, review: Review) -> Mapping[str, Any]:
    """By direction what the filter did in the streams that have a record of a request."""
    of_streams = [d for d in scene.chosen.goal_directions for _ in range(asked.parts)]
    mine, control = review.verdicts["split"], review.verdicts["split_random"]
    report: dict[str, Any] = {}
    for direction in scene.setup.game.targets.directions:
        which = [i for i, each in enumerate(of_streams) if each == direction and bool(asked.streams[i].malicious.any())]
        found = measured(
            {"decision": [mine[i].scores for i in which]}, [~mine[i].accepted for i in which],
            [asked.streams[i] for i in which], [~control[i].accepted for i in which],
        )  # fmt: skip
        report[direction] = None if found is None else {name: value for name, value in found.items() if name != "roc"}
    return report
