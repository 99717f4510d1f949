"""One game with one seed: craft, control, filter, judge. The result is a record of plain numbers."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from attacks.adaptive.none import strategy_of
from attacks.crafting.contribution import Contributes
from attacks.crafting.criterion import criterion_of, described
from data.machine import peak_gpu_memory_mb, peak_memory_mb
from data.randomness import generator
from games.checkpoint import SLOW, Checkpointed
from games.oracles import oracles
from games.request.contributing import as_prepared, on_what_was_handed_in
from games.request.crafting import CraftingRun, craft
from games.request.evaluation import Judge, Probe
from games.request.forgetting import Forgetting
from games.request.judging import Scene, judge_with_fresh_seeds, judge_with_own_seed
from games.request.objective import AttackedObjective
from games.request.repairing import repairing, without_spares
from games.request.states import Observer
from games.request.targets import Targets, choose_targets, member_seeds, nearest_distance
from games.request.traffic import Traffic, traffic
from metrics.uncertainty import ece_floor
from metrics.wording import count
from models.named_tensors import digest

if TYPE_CHECKING:
    from games.request.targets import RequestSetup
    from models.victim import Victim

log = logging.getLogger(__name__)
QUICK = ("the distance to retraining", "a request in two halves", "fresh seeds")  # what judge=quick leaves out


def play_one(setup: RequestSetup, seed: int) -> dict[str, Any]:
    """Play the game of `setup` with the root seed `seed`; docs/reading.md explains the fields of the record."""
    began = perf_counter()
    setup, spares = without_spares(setup, seed)
    setup, victims, seeds, steps, observer = _before(setup, seed)
    chosen = observer.chosen
    learned = perf_counter()
    run = craft(setup, seed, victims, seeds, chosen)
    crafted, runs = count(len(run.crafted), "request"), count(run.meter.operator_calls, "run")
    log.info("Crafted %s with %s of the procedure.", crafted, runs)
    attacked = perf_counter()
    sent = [each.request if each.request.examples is not None else None for each in run.crafted]
    repairs = repairing(setup, spares, victims[0], seed)
    scene = Scene(setup, seed, victims, seeds, observer.judge, observer, sent, repairs)
    requests = [torch.tensor(each.request.indices, dtype=torch.long) for each in run.crafted]
    strategy = strategy_of(setup.attack)
    stages = [each.stages for each in run.crafted] if any(each.stages for each in run.crafted) else []
    asked = traffic(setup, seed, chosen, requests, victims, strategy.played(run.crafted), stages)
    objective = AttackedObjective(getattr(setup.attack, "functional", None), setup.data, chosen, seed)
    judged, alone = _judged(scene, asked, objective)
    record = {
        "seed": seed,
        "criterion": described(observer.criterion),
        "functional": objective.label,
        "targets": _targets(scene),
        "requests": _requests(run, chosen),
        "handed_in": chosen.handed_in,
        "records": len(setup.task.records),
        "spares": 0 if spares is None else len(spares),
        "adaptive": _adaptive(setup, run),
        **judged,
        "ece_floor": ece_floor(observer.start[: len(setup.data.test)], generator(seed, "ece floor")).value,
        "queries": run.meter.queries,
        "predictions": run.meter.predictions,
        "operator_calls": run.meter.operator_calls,
        "seconds": {
            "victim": learned - began - chosen.now,
            "attack": chosen.seconds + run.seconds,
            "judgement": perf_counter() - attacked,
            **alone,
        },
        "memory_mb": {"peak": peak_memory_mb(), "gpu": peak_gpu_memory_mb(setup.device)},
    }
    steps.clear()
    if repairs is not None and repairs.steps is not None:
        repairs.steps.clear()
    return record


def _before(setup: RequestSetup, seed: int) -> tuple[RequestSetup, list[Victim], list[int], Checkpointed, Observer]:
    """Who is attacked: the setup with what was handed in, its victims with their seeds, and the targets observed.

    Targets are chosen by what models predict that learned the records as they were, prepared by the defense.
    """
    seeds, criterion = member_seeds(setup, seed), criterion_of(setup.attack)

    def learned(setup: RequestSetup) -> tuple[list[Victim], Checkpointed]:
        steps = Checkpointed(setup.procedure, setup.store, setup.keys.of("unlearning"))
        return [setup.victim(each) for each in seeds], steps

    handed_in, setup = setup, as_prepared(setup)
    victims, steps = learned(setup)
    judge, toward = Judge(setup.task, steps, setup.data), getattr(criterion, "toward", None)
    start = judge.predict([victim.copies(1) for victim in victims])[0]
    share = setup.game.targets.far or strategy_of(setup.attack).far
    far = None if share is None else (share, setup.data.filter_trusted.x)
    chosen = choose_targets(setup.game.targets, start[: len(setup.data.test)], setup.data.test.x, seed, toward, far)
    first = judge
    if isinstance(setup.attack, Contributes):
        handed_in, chosen = on_what_was_handed_in(handed_in, seed, chosen)
        setup = as_prepared(handed_in)
        victims, steps = learned(setup)
        judge = Judge(setup.task, steps, setup.data, chosen.shown)
    if (perturbation := getattr(criterion, "perturbation", None)) is not None:
        nearby = perturbation.within(setup.task.records.x)
        judge = replace(judge, probe=Probe(nearby, setup.data.test.x[chosen.positions], chosen.labels))
    if judge is not first:
        start = judge.predict([victim.copies(1) for victim in victims])[0]
    return setup, victims, seeds, steps, Observer(judge, chosen, criterion, start)


def _judged(scene: Scene, asked: Traffic, objective: AttackedObjective) -> tuple[dict[str, Any], dict[str, float]]:
    """What was measured in every state, and the seconds of single requests."""
    setup, judge, full = scene.setup, scene.judge, scene.setup.judge == "full"
    victim, probe = scene.victims[0], judge.rows([asked.probe])
    retrained = partial(oracles, setup, seed=scene.seeds[0], slow=SLOW)
    forgetting = Forgetting(setup.task, setup.procedure, victim, scene.seeds[0], setup.data.test.x, full, retrained)
    own, detection, accepted = judge_with_own_seed(scene, forgetting, objective, asked)
    judged = {
        "victim_seed": own,
        "fresh_seeds": judge_with_fresh_seeds(scene, asked, accepted) if full else None,
        "detection": detection,
        "in_sequence": forgetting.in_sequence(asked.probe.tolist()),
    }
    seconds = forgetting.seconds(probe)
    left_out = [] if full else list(QUICK if setup.procedure.stochastic else QUICK[:2])
    return {**judged, "left_out": left_out, "certificate": forgetting.certificate(probe)}, seconds


def _targets(scene: Scene) -> dict[str, Any]:
    chosen, test = scene.chosen, scene.setup.data.test
    far = {} if chosen.distances is None else {"far": chosen.distances.tolist(), "usual": chosen.usual}
    trusted, shown = scene.setup.data.filter_trusted, chosen.shown
    if len(trusted):
        everywhere = nearest_distance(test.x, trusted.x)
        own = everywhere[chosen.positions] if shown is None else nearest_distance(shown, trusted.x)
        far |= {"trusted_distance": own.tolist(), "trusted_distance_usual": float(everywhere.mean())}
    return {
        **far,
        "position": chosen.positions.tolist(),
        "label": chosen.labels.tolist(),
        "truth": test.y[chosen.positions].tolist(),
        "direction": list(chosen.directions),
        "aim": chosen.goal_of.tolist(),
        "test": len(test),
    }


def _adaptive(setup: RequestSetup, run: CraftingRun) -> dict[str, Any]:
    """The strategy that was played, and where it was chosen what each attained in the attacker's own trials."""
    strategy, tried = strategy_of(setup.attack), run.crafted[0].tried
    return {"asked": strategy.name, "played": strategy.played(run.crafted).name, "tried": dict(tried)}


def _requests(run: CraftingRun, chosen: Targets) -> list[dict[str, Any]]:
    """The requests as a record has them; of copies that one brings, a hash: they themselves are in the store."""
    found = []
    for each, direction in zip(run.crafted, chosen.goal_directions, strict=True):
        request: dict[str, Any] = {
            "indices": list(each.request.indices),
            "direction": direction,
            "objective": each.objective,
            "curve": list(each.curve),
        }
        if each.request.examples is not None:
            request["copies"] = digest({"x": each.request.examples.x, "y": each.request.examples.y})
        found.append(request)
    return found
