"""One game with one seed: craft, control, filter, judge. The result is a record of plain numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from data.randomness import derive, generator
from defenses.filters.none import NoDefense
from experiments.checkpoint import Checkpointed
from experiments.choose import Chosen, benign_batches, choose_attacker, choose_targets, learn, member_seeds, streams
from experiments.crafting import craft
from experiments.detection import Review
from experiments.forgetting import Forgetting, Lists
from experiments.judge import Judge, Look, averaged_on_targets, on_targets
from experiments.machine import peak_gpu_memory_mb, peak_memory_mb
from experiments.setup import Setup
from metrics.uncertainty import ece_floor
from models.victim import Ensemble, Victim
from unlearning.retrain import Retrain

log = logging.getLogger(__name__)
QUICK = ("the distance to retraining", "a request in two halves", "fresh seeds")  # what judge=quick leaves out


def play_one(setup: Setup, seed: int) -> dict[str, Any]:
    """Play the game of `setup` with the root seed `seed`; see the README for the fields of the record."""
    began = perf_counter()
    seeds = member_seeds(setup, seed)
    victims = [learn(setup, each) for each in seeds]
    steps = Checkpointed(setup.procedure, setup.store, setup.victim_key())
    judge = Judge(setup.task, steps, setup.data)
    start = judge.predict([victim.copies(1) for victim in victims])[0]
    n = len(setup.data.test)
    chosen = choose_targets(setup.settings.targets, start[:n], setup.data.test.x, seed)
    learned = perf_counter()
    turn = craft(setup, seed, victims, seeds, chosen)
    log.info("Crafted %d requests with %d runs of the procedure.", len(turn.crafted), turn.meter.operator_calls)
    attacked = perf_counter()
    requests = [torch.tensor(each.request.indices, dtype=torch.long) for each in turn.crafted]
    full = setup.settings.judge == "full"
    forgetting = Forgetting(setup.task, setup.procedure, victims[0], seeds[0], setup.data.test.x, compared=full)
    own, detection = judge_with_own_seed(setup, judge, forgetting, seed, victims, seeds, chosen, start, requests)
    accepted = detection.pop("accepted")
    fresh = judge_with_fresh_seeds(setup, judge, seed, victims, chosen, requests, accepted) if full else None
    truth = setup.data.test.y[chosen.positions]
    control = random_controls(setup, seed, requests)[0]
    in_sequence, alone = forgetting.in_sequence(control.tolist()), forgetting.seconds(judge.rows([control]))
    certificate = forgetting.certificate(judge.rows([control]))
    record = {
        "seed": seed,
        "targets": {
            "position": chosen.positions.tolist(), "label": chosen.labels.tolist(), "truth": truth.tolist(),
            "direction": list(chosen.directions), "aim": chosen.aim_of.tolist(),
        },
        "requests": [
            {"indices": list(c.request.indices), "direction": d, "objective": c.objective, "curve": list(c.curve)}
            for c, d in zip(turn.crafted, chosen.aim_directions, strict=True)
        ],
        "victim_seed": own,
        "fresh_seeds": fresh,
        "detection": detection,
        "in_sequence": in_sequence,
        "left_out": list(QUICK if judge.procedure.draws else QUICK[:2]) if not full else [],
        "certificate": certificate,
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


def random_controls(setup: Setup, seed: int, requests: Sequence[Tensor]) -> list[Tensor]:
    """For each request as many records of the attacker's pool at random; for an empty one as many as the budget."""
    pool = choose_attacker(setup, seed).pool.cpu()
    sizes = [len(request) or setup.attack.budget for request in requests]
    draws = [torch.randperm(len(pool), generator=generator(seed, "control", i))[:size] for i, size in enumerate(sizes)]
    return [pool[draw] for draw in draws]


def judge_with_own_seed(
    setup: Setup, judge: Judge, forgetting: Forgetting, seed: int, victims: Sequence[Victim], seeds: Sequence[int],
    chosen: Chosen, start: Tensor, requests: Sequence[Tensor],
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Every state with the victim's own seed (common random numbers), and what the filter did."""
    stream, size = setup.settings.stream, setup.attack.budget * (1 + setup.settings.stream.benign_per_malicious)
    mixed = streams(setup, seed, requests)
    benign = benign_batches(setup, seed, "benign", stream.benign_batches, size)
    batches = 0 if isinstance(setup.defense, NoDefense) else stream.calibration_batches
    calibration = benign_batches(setup, seed, "calibration", batches, size)
    review = Review(setup, victims[0], calibration, mixed, benign)
    groups = {
        "calibration": calibration, "after": requests, "random": random_controls(setup, seed, requests),
        "stream": [stream for stream, _ in mixed], "benign": benign,
    }  # fmt: skip
    forgot: dict[str, Lists] = {"after": {}, "random": {}}

    def measuring(name: str) -> Look:
        def measure(models: Ensemble, which: slice, predictions: Tensor) -> None:
            on_test = predictions[:, : len(setup.data.test)] if len(victims) == 1 else None
            for metric, values in forgetting.measure(models, judge.rows(groups[name][which]), on_test).items():
                forgot[name].setdefault(metric, []).extend(values)

        return measure

    looks: dict[str, Look] = {"calibration": review.calibrate, "stream": review.mixed, "benign": review.benign}
    looks |= {name: measuring(name) for name in forgot}
    found = judge.after(victims, seeds, groups, looks, "judging with the victim's seed", unseen=("calibration",))
    after, control, undefended, benign_only = (found[name] for name in ("after", "random", "stream", "benign"))
    detection = review.report(chosen)
    defended, final = undefended.clone(), undefended.clone()  # what they are where nothing was quarantined
    held = [i for i, each in enumerate(detection["quarantined"]) if each]
    if held:
        accepted = {"defended": [detection["accepted"][i] for i in held]}
        defended[held] = judge.after(victims, seeds, accepted, label="judging the defense")["defended"]
    if held and not setup.procedure.exact:
        final[held] = processed(setup, seeds, victims, [mixed[i] for i in held])
    states = {"after": after, "random": control, "stream": undefended, "defended": defended, "processed": final}
    aim = chosen.aim_of.to(start.device)
    outcome: dict[str, Any] = {"before": state(judge, chosen, start[None], torch.zeros_like(aim))}
    outcome |= {name: state(judge, chosen, p, aim) for name, p in states.items()}
    for name in forgot:
        outcome[name]["models"] |= forgot[name]
    outcome["benign"] = averaged_on_targets(benign_only, chosen.positions, chosen.labels)
    outcome["benign"]["models"] = judge.model_levels(benign_only)
    outcome["reliability"] = {"before": judge.reliability([start])} | {
        d: judge.reliability([p for p, each in zip(after, chosen.aim_directions, strict=True) if each == d])
        for d in setup.settings.targets.directions
    }
    return outcome, detection


def processed(
    setup: Setup, seeds: Sequence[int], victims: Sequence[Victim], mixed: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Predictions after the quarantined requests were processed too: exact retraining without the whole stream."""
    exact = Judge(setup.task, Retrain(), setup.data)
    groups = {"processed": [stream for stream, _ in mixed]}
    return exact.after(victims, seeds, groups, label="processing the quarantine")["processed"]


def state(judge: Judge, chosen: Chosen, probabilities: Tensor, row_of_target: Tensor) -> dict[str, Any]:
    """One state: per-target numbers under each target's own model, and each metric as a list over the models."""
    return {
        **on_targets(probabilities[row_of_target], chosen.positions, chosen.labels),
        "models": judge.model_levels(probabilities),
    }


def judge_with_fresh_seeds(
    setup: Setup, judge: Judge, seed: int, victims: Sequence[Victim], chosen: Chosen, requests: Sequence[Tensor],
    accepted: Sequence[Tensor],
) -> dict[str, Any] | None:  # fmt: skip
    """The same judged with seeds that a real provider might draw, averaged over them, beside deleting nothing.

    Per target every seed is kept; the metrics of a model are averaged over the seeds.
    The spread of `nothing` is the noise floor: what retraining alone does to the targets. None for a procedure that
    draws nothing, whose result does not depend on its seed.
    """
    if not judge.procedure.draws:
        return None
    fresh = [derive(seed, "fresh", i) for i in range(setup.settings.fresh_seeds)]
    groups: dict[str, Sequence[Tensor]] = {
        "nothing": [torch.empty(0, dtype=torch.long)],
        "after": requests,
        "random": random_controls(setup, seed, requests),
        "defended": accepted,
    }
    aim = chosen.aim_of.to(setup.device)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in groups}
    for number, each in enumerate(fresh, 1):
        label, own = f"judging with fresh seed {number} of {len(fresh)}", member_seeds(setup, each)
        for name, p in judge.after(victims, own, groups, label=label, empty_too=True).items():
            rows_used = torch.zeros_like(aim) if name == "nothing" else aim
            found[name].append(state(judge, chosen, p, rows_used))
    averaged = {name: mean_of_models([each.pop("models") for each in states]) for name, states in found.items()}
    return {"seeds": fresh, **found, "models": averaged}


def mean_of_models(seeds: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """The metrics of each model, averaged over the seeds that it was judged with."""
    return {
        metric: [sum(each) / len(seeds) for each in zip(*(found[metric] for found in seeds), strict=True)]
        for metric in seeds[0]
    }
