"""The judgement of a request game: every state with the victim's own seed, what the filter did, and fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data.randomness import derive
from games.request.detection import Review
from games.request.evaluation import Judge, Look
from games.request.forgetting import Forgetting, Lists
from games.request.objective import AttackedObjective
from games.request.repairing import Repairing
from games.request.split import judge_split, split_requests
from games.request.states import Observer, mean_of_models
from games.request.targets import Targets, member_seeds
from games.request.traffic import Stream, Traffic, in_sequences, together
from games.request.turns import Parts, same_positions
from models.victim import ModelStack, Victim
from unlearning.procedure import Request
from unlearning.retrain import Retrain

if TYPE_CHECKING:
    from games.request.targets import RequestSetup


@dataclass(frozen=True, eq=False)
class Scene:
    """Who is attacked and who judges: the victims with their seeds, and what describes the targets."""

    setup: RequestSetup
    seed: int
    victims: Sequence[Victim]
    seeds: Sequence[int]
    judge: Judge
    observer: Observer
    sent: Sequence[Request | None]  # the requests that bring copies, by their number
    repairs: Repairing | None = None  # what the defense does beside filtering

    @property
    def defended(self) -> Judge:
        """Who judges what the provider makes of the requests that its defense accepted."""
        return replace(self.judge, repairs=self.repairs)

    @property
    def chosen(self) -> Targets:
        """The targets."""
        return self.observer.chosen

    @property
    def brought(self) -> Sequence[Request | None]:
        """The requests whose copies the server computes with, by their number."""
        return [None] * len(self.sent) if self.setup.game.service.record == "own" else self.sent


@dataclass(frozen=True, eq=False)
class Accepted:
    """What the filter let through of the streams of the requests (`defended`) and of the controls (`defended_random`).

    `positions` are what is deleted, by request, `brought` the parts of the requests whose copies count, and `held`
    which requests have something in quarantine. `turns` are the same positions by stream, where streams come one after
    the other.
    """

    positions: Mapping[str, Sequence[Tensor]]
    brought: Sequence[Request | None]
    held: Sequence[bool]
    turns: Mapping[str, Sequence[Parts]]


def judge_with_own_seed(
    scene: Scene, forgetting: Forgetting, objective: AttackedObjective, asked: Traffic
) -> tuple[dict[str, Any], dict[str, Any], Accepted]:
    """Every state with the victim's own seed (common random numbers), what the filter did, and what it accepted."""
    judge, observer, kinds, parts = scene.judge, scene.observer, list(asked.benign), asked.parts
    positions = {"stream": _positions(asked.streams), "stream_random": _positions(asked.random_streams)}
    positions |= {f"benign_{kind}": list(batches) for kind, batches in asked.benign.items()}
    whole = {name: together(batches, parts) for name, batches in positions.items()}
    turns = _in_turns(positions, parts)
    review = Review(scene.setup, scene.victims[0], asked.calibration, positions, scene.sent)
    groups: dict[str, Sequence[Tensor]] = {
        "calibration": asked.calibration, "after": asked.requests, "random": asked.random, "nearest": asked.nearest,
        **whole,
    }  # fmt: skip
    forgot: dict[str, Lists] = {"after": {}, "random": {}}
    looks: dict[str, Look] = {"calibration": review.calibrate}
    looks |= {} if turns else {name: review.look(name) for name in review.groups}
    looks |= {name: _measuring(scene, forgetting, groups[name], found) for name, found in forgot.items()}
    objective.before(scene.victims)
    if objective.measured:
        every = range(len(scene.chosen.goals))
        of_aims = ("after", "random", "nearest", "stream", "stream_random")
        looks |= {name: _both(looks.get(name), objective.look(name, every)) for name in of_aims}
    label = "judging with the victim's seed"
    brought = dict.fromkeys(("after", "stream"), scene.brought)
    found = judge.after(
        scene.victims, scene.seeds, groups, looks, label, unseen=("calibration",), brought=brought, turns=turns
    )
    if turns:
        review.in_turn(judge.provider(scene.victims, scene.seeds), parts)
    accepted = _accepted(scene, review, parts)
    found |= _defended(scene, objective, whole, accepted, found)
    found["processed"] = processed(scene, whole["stream"], accepted.held, found)
    outcome: dict[str, Any] = {"before": observer.before()}
    states = ("after", "random", "nearest", "stream", "defended", "processed")
    outcome |= {name: observer.state(found[name]) for name in states}
    outcome |= {name: observer.targets(found[name]) for name in ("stream_random", "defended_random")}
    for name, lists in forgot.items():
        outcome[name]["models"] |= lists
    for name, values in objective.values.items():
        outcome[name]["functional"] = values
    outcome["benign"] = observer.averaged(found[f"benign_{kinds[0]}"])
    outcome["reliability"] = {"before": judge.reliability([observer.start])} | {
        d: judge.reliability(
            [p for p, each in zip(found["after"], scene.chosen.goal_directions, strict=True) if each == d]
        )
        for d in scene.setup.game.targets.directions
    }
    detection = review.report(scene.chosen, asked.streams, {kind: f"benign_{kind}" for kind in kinds}, parts)
    copies = any(each is not None for each in scene.brought)
    also = split_requests(scene.setup, scene.seed, asked.requests, asked.random, copies)
    detection["split"] = judge_split(scene, also, review)
    return outcome, detection, accepted


def _positions(streams: Sequence[Stream]) -> list[Tensor]:
    return [stream.positions for stream in streams]


def _in_turns(positions: Mapping[str, Sequence[Tensor]], parts: int) -> dict[str, Sequence[Parts]]:
    """The batches of every group by sequence; nothing where each comes alone."""
    return {name: in_sequences(batches, parts) for name, batches in positions.items()} if parts > 1 else {}


def _accepted(scene: Scene, review: Review, parts: int) -> Accepted:
    """What the filter let through; a request that is spread over `parts` streams brings no copies."""
    through = {"defended": review.accepted("stream"), "defended_random": review.accepted("stream_random")}
    passed = [bool(verdict.accepted.all()) for verdict in review.verdicts["stream"]]
    held = [not all(passed[i : i + parts]) for i in range(0, len(passed), parts)]
    left = list(scene.brought) if parts > 1 else review.copies_left(scene.brought)
    whole = {name: together(positions, parts) for name, positions in through.items()}
    return Accepted(whole, left, held, _in_turns(through, parts))


def _measuring(scene: Scene, forgetting: Forgetting, requests: Sequence[Tensor], found: Lists) -> Look:
    """A look that measures how well the models forgot their requests, and adds it to `found`."""
    test = len(scene.setup.data.test)

    def measure(models: Sequence[ModelStack], which: slice, predictions: Tensor) -> None:
        on_test = predictions[:, :test] if len(scene.victims) == 1 else None
        for metric, values in forgetting.measure(models[0], scene.judge.rows(requests[which]), on_test).items():
            found.setdefault(metric, []).extend(values)

    return measure


def _both(first: Look | None, second: Look) -> Look:
    def look(models: Sequence[ModelStack], which: slice, predictions: Tensor) -> None:
        if first is not None:
            first(models, which, predictions)
        second(models, which, predictions)

    return look


def _defended(
    scene: Scene, objective: AttackedObjective, streams: Mapping[str, Sequence[Tensor]], accepted: Accepted,
    found: Mapping[str, Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    """Predictions after what was accepted; a stream accepted whole, and not repaired, is not unlearned once more."""
    whole = {"defended": "stream", "defended_random": "stream_random"}
    left = {
        name: [i for i, each in enumerate(parts) if scene.repairs or not same_positions(each, streams[whole[name]][i])]
        for name, parts in accepted.positions.items()
    }
    replaced = {i for i, each in enumerate(accepted.brought) if each is not scene.brought[i]}
    left["defended"] = sorted({*left["defended"], *replaced})
    groups = {name: [accepted.positions[name][i] for i in rows] for name, rows in left.items()}
    looks: dict[str, Look] = {}
    if objective.measured:
        for name in groups:
            objective.values[name] = list(objective.values[whole[name]])
        looks = {name: objective.look(name, rows) for name, rows in left.items()}
    brought = {"defended": [accepted.brought[i] for i in left["defended"]]}
    turns = {name: [own[i] for i in left[name]] for name, own in accepted.turns.items()}
    judged = scene.defended.after(
        scene.victims, scene.seeds, groups, looks, "judging the defense", brought=brought, turns=turns
    )
    result = {}
    for name, rows in left.items():
        result[name] = found[whole[name]].clone()
        result[name][rows] = judged[name]
    return result


def processed(scene: Scene, streams: Sequence[Tensor], held: Sequence[bool], found: Mapping[str, Tensor]) -> Tensor:
    """Predictions after the quarantined requests were processed too: exact retraining without the whole stream.

    A stream of which nothing was quarantined stays as the filter left it; with an exact procedure, the whole stream is
    what it was without a filter. Where the defense repairs models, it repairs these.
    """
    rows, result = [i for i, each in enumerate(held) if each], found["defended"].clone()
    if not rows:
        return result
    if scene.setup.procedure.exact and scene.repairs is None:
        result[rows] = found["stream"][rows]
        return result
    exact = scene.defended if scene.setup.procedure.exact else replace(scene.defended, procedure=Retrain())
    groups = {"processed": [streams[i] for i in rows]}
    result[rows] = exact.after(scene.victims, scene.seeds, groups, label="processing the quarantine")["processed"]
    return result


def judge_with_fresh_seeds(scene: Scene, asked: Traffic, accepted: Accepted) -> dict[str, Any] | None:
    """The same judged with seeds that a real provider might draw, averaged over them, beside deleting nothing.

    Per target every seed is kept; the metrics of a model are averaged over the seeds.
    The spread of `nothing` is the noise floor: what retraining alone does to the targets. None for a procedure that
    draws nothing, whose result does not depend on its seed.
    """
    if not scene.judge.procedure.stochastic:
        return None
    setup, observer = scene.setup, scene.observer
    fresh = [derive(scene.seed, "fresh", i) for i in range(setup.game.fresh_seeds)]
    plain: dict[str, Sequence[Tensor]] = {
        "nothing": [torch.empty(0, dtype=torch.long)], "after": asked.requests, "random": asked.random,
    }  # fmt: skip
    parts = [(scene.judge, {**plain, **accepted.positions})]
    if scene.repairs is not None:
        parts = [(scene.judge, plain), (scene.defended, dict(accepted.positions))]
    brought = {"after": scene.brought, "defended": accepted.brought}
    found: dict[str, list[dict[str, Any]]] = {name: [] for _, groups in parts for name in groups}
    for number, each in enumerate(fresh, 1):
        label, seeds = f"judging with fresh seed {number} of {len(fresh)}", member_seeds(setup, each)
        for judge, groups in parts:
            judged = judge.after(
                scene.victims, seeds, groups, label=label, empty_too=True, brought=brought, turns=accepted.turns
            )
            for name, p in judged.items():
                found[name].append(observer.state(p, [0] * len(scene.chosen.goals) if name == "nothing" else None))
    averaged = {name: mean_of_models([each.pop("models") for each in states]) for name, states in found.items()}
    return {"seeds": fresh, **found, "models": averaged}
