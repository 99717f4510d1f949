"""One game with one seed: craft, control, filter, judge. The result is a record of plain numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from attacks.crafting.criterion import criterion_of, described
from data.machine import peak_gpu_memory_mb, peak_memory_mb
from data.randomness import derive, generator
from experiments.play.setup import Setup
from games.checkpoint import Checkpointed
from games.request.crafting import craft
from games.request.detection import Review
from games.request.evaluation import Judge, Look
from games.request.forgetting import Forgetting, Lists
from games.request.objective import AttackedObjective
from games.request.states import Observer, mean_of_models
from games.request.targets import Chosen, choose_targets, learn, member_seeds
from games.request.traffic import Stream, Traffic, traffic
from metrics.uncertainty import ece_floor
from models.victim import ModelStack, Victim
from unlearning.retrain import Retrain

log = logging.getLogger(__name__)
QUICK = ("the distance to retraining", "a request in two halves", "fresh seeds")  # what judge=quick leaves out


@dataclass(frozen=True, eq=False)
class Scene:
    """Who is attacked and who judges: the victims with their seeds, and what describes the targets."""

    setup: Setup
    seed: int
    victims: Sequence[Victim]
    seeds: Sequence[int]
    judge: Judge
    observer: Observer

    @property
    def chosen(self) -> Chosen:
        """The targets."""
        return self.observer.chosen


def play_one(setup: Setup, seed: int) -> dict[str, Any]:
    """Play the game of `setup` with the root seed `seed`; docs/reading.md explains the fields of the record."""
    began = perf_counter()
    seeds = member_seeds(setup, seed)
    victims = [learn(setup, each) for each in seeds]
    steps = Checkpointed(setup.procedure, setup.store, setup.victim_key())
    judge = Judge(setup.task, steps, setup.data)
    start = judge.predict([victim.copies(1) for victim in victims])[0]
    n, criterion = len(setup.data.test), criterion_of(setup.attack)
    chosen = choose_targets(setup.settings.targets, start[:n], setup.data.test.x, seed)
    scene = Scene(setup, seed, victims, seeds, judge, Observer(judge, chosen, criterion, start))
    learned = perf_counter()
    turn = craft(setup, seed, victims, seeds, chosen)
    log.info("AttackResult %d requests with %d runs of the procedure.", len(turn.crafted), turn.meter.operator_calls)
    attacked = perf_counter()
    requests = [torch.tensor(crafted.request.indices, dtype=torch.long) for crafted in turn.crafted]
    asked = traffic(setup, seed, chosen, requests, victims)
    full = setup.settings.judge == "full"
    forgetting = Forgetting(setup.task, setup.procedure, victims[0], seeds[0], setup.data.test.x, compared=full)
    objective = AttackedObjective(getattr(setup.attack, "functional", None), setup.data, chosen, seed)
    own, detection, accepted = judge_with_own_seed(scene, forgetting, objective, asked)
    fresh = judge_with_fresh_seeds(scene, asked, accepted) if full else None
    in_sequence, alone = forgetting.in_sequence(asked.probe.tolist()), forgetting.seconds(judge.rows([asked.probe]))
    record = {
        "seed": seed,
        "criterion": described(criterion), "functional": objective.label,
        "targets": {
            "position": chosen.positions.tolist(), "label": chosen.labels.tolist(),
            "truth": setup.data.test.y[chosen.positions].tolist(),
            "direction": list(chosen.directions), "aim": chosen.aim_of.tolist(), "test": n,
        },
        "requests": [
            {"indices": list(c.request.indices), "direction": d, "objective": c.objective, "curve": list(c.curve)}
            for c, d in zip(turn.crafted, chosen.aim_directions, strict=True)
        ],
        "victim_seed": own,
        "fresh_seeds": fresh,
        "detection": detection,
        "in_sequence": in_sequence,
        "left_out": list(QUICK if judge.procedure.stochastic else QUICK[:2]) if not full else [],
        "certificate": forgetting.certificate(judge.rows([asked.probe])),
        "ece_floor": ece_floor(start[:n], generator(seed, "ece floor")).value,
        "queries": turn.meter.queries, "predictions": turn.meter.predictions,
        "operator_calls": turn.meter.operator_calls,
        "seconds": {
            "victim": learned - began, "attack": turn.seconds, "judgement": perf_counter() - attacked, **alone,
        },
        "memory_mb": {"peak": peak_memory_mb(), "gpu": peak_gpu_memory_mb(setup.device)},
    }  # fmt: skip
    steps.clear()
    return record


Accepted = Mapping[str, Sequence[Tensor]]  # what the filter accepted of the streams of the requests and of the controls


def judge_with_own_seed(
    scene: Scene, forgetting: Forgetting, objective: AttackedObjective, asked: Traffic
) -> tuple[dict[str, Any], dict[str, Any], Accepted]:
    """Every state with the victim's own seed (common random numbers), what the filter did, and what it accepted."""
    judge, observer, kinds = scene.judge, scene.observer, list(asked.benign)
    positions = {"stream": _positions(asked.streams), "stream_random": _positions(asked.random_streams)}
    benign = {f"benign_{kind}": batches for kind, batches in asked.benign.items()}
    review = Review(scene.setup, scene.victims[0], asked.calibration, {**positions, **benign})
    groups: dict[str, Sequence[Tensor]] = {
        "calibration": asked.calibration, "after": asked.requests, "random": asked.random, "nearest": asked.nearest,
        **positions, **benign,
    }  # fmt: skip
    forgot: dict[str, Lists] = {"after": {}, "random": {}}
    looks: dict[str, Look] = {"calibration": review.calibrate} | {name: review.look(name) for name in review.groups}
    looks |= {name: _measuring(scene, forgetting, groups[name], found) for name, found in forgot.items()}
    objective.before(scene.victims)
    if objective.measured:
        every = range(len(scene.chosen.aims))
        of_aims = ("after", "random", "nearest", "stream", "stream_random")
        looks |= {name: _both(looks.get(name), objective.look(name, every)) for name in of_aims}
    label = "judging with the victim's seed"
    found = judge.after(scene.victims, scene.seeds, groups, looks, label, unseen=("calibration",))
    accepted = {"defended": review.accepted("stream"), "defended_random": review.accepted("stream_random")}
    found |= _defended(scene, objective, positions, accepted, found)
    found["processed"] = processed(scene, asked.streams, accepted["defended"], found["stream"])
    outcome: dict[str, Any] = {"before": observer.before()}
    whole = ("after", "random", "nearest", "stream", "defended", "processed")
    outcome |= {name: observer.state(found[name]) for name in whole}
    outcome |= {name: observer.targets(found[name]) for name in ("stream_random", "defended_random")}
    for name, lists in forgot.items():
        outcome[name]["models"] |= lists
    for name, values in objective.values.items():
        outcome[name]["functional"] = values
    outcome["benign"] = observer.averaged(found[f"benign_{kinds[0]}"])
    outcome["reliability"] = {"before": judge.reliability([observer.start])} | {
        d: judge.reliability(
            [p for p, each in zip(found["after"], scene.chosen.aim_directions, strict=True) if each == d]
        )
        for d in scene.setup.settings.targets.directions
    }
    detection = review.report(scene.chosen, asked.streams, {kind: f"benign_{kind}" for kind in kinds})
    return outcome, detection, accepted


def _positions(streams: Sequence[Stream]) -> list[Tensor]:
    return [stream.positions for stream in streams]


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
    """Predictions after what was accepted; a stream that was accepted whole is not unlearned once more."""
    whole = {"defended": "stream", "defended_random": "stream_random"}
    left = {
        name: [i for i, each in enumerate(parts) if len(each) < len(streams[whole[name]][i])]
        for name, parts in accepted.items()
    }
    groups = {name: [accepted[name][i] for i in rows] for name, rows in left.items()}
    looks: dict[str, Look] = {}
    if objective.measured:
        for name in groups:
            objective.values[name] = list(objective.values[whole[name]])
        looks = {name: objective.look(name, rows) for name, rows in left.items()}
    judged = scene.judge.after(scene.victims, scene.seeds, groups, looks, "judging the defense")
    result = {}
    for name, rows in left.items():
        result[name] = found[whole[name]].clone()
        result[name][rows] = judged[name]
    return result


def processed(scene: Scene, streams: Sequence[Stream], accepted: Sequence[Tensor], undefended: Tensor) -> Tensor:
    """Predictions after the quarantined requests were processed too: exact retraining without the whole stream.

    A stream of which nothing was quarantined stays as it is, and with an exact procedure every one.
    """
    held = [i for i, stream in enumerate(streams) if len(accepted[i]) < len(stream.positions)]
    if scene.setup.procedure.exact or not held:
        return undefended
    exact, result = Judge(scene.setup.task, Retrain(), scene.setup.data), undefended.clone()
    groups = {"processed": [streams[i].positions for i in held]}
    result[held] = exact.after(scene.victims, scene.seeds, groups, label="processing the quarantine")["processed"]
    return result


def judge_with_fresh_seeds(scene: Scene, asked: Traffic, accepted: Accepted) -> dict[str, Any] | None:
    """The same judged with seeds that a real provider might draw, averaged over them, beside deleting nothing.

    Per target every seed is kept; the metrics of a model are averaged over the seeds.
    The spread of `nothing` is the noise floor: what retraining alone does to the targets. None for a procedure that
    draws nothing, whose result does not depend on its seed.
    """
    setup, observer = scene.setup, scene.observer
    if not scene.judge.procedure.stochastic:
        return None
    fresh = [derive(scene.seed, "fresh", i) for i in range(setup.settings.fresh_seeds)]
    groups: dict[str, Sequence[Tensor]] = {
        "nothing": [torch.empty(0, dtype=torch.long)], "after": asked.requests, "random": asked.random, **accepted
    }  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in groups}
    for number, each in enumerate(fresh, 1):
        label, seeds = f"judging with fresh seed {number} of {len(fresh)}", member_seeds(setup, each)
        for name, p in scene.judge.after(scene.victims, seeds, groups, label=label, empty_too=True).items():
            found[name].append(observer.state(p, [0] * len(scene.chosen.aims) if name == "nothing" else None))
    averaged = {name: mean_of_models([each.pop("models") for each in states]) for name, states in found.items()}
    return {"seeds": fresh, **found, "models": averaged}
