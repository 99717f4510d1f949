"""One game with one seed: hand in, learn, ask, pretend, verify, measure. The result is a record of plain numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.provider.provider import Demand
from data.errors import UserError, called
from data.machine import peak_gpu_memory_mb, peak_memory_mb
from data.randomness import derive, generator
from defenses.verification.verification import Case, Prepared, Remember, Verdict, challenged, verified
from games.verification.checks import asks_for_proof
from games.verification.errors import described_errors
from games.verification.owners import brought, handed_in, held_back, key_of_records, original
from games.verification.proving import LOG, logged_original, workplace, writer
from games.verification.releasing import Controls, Released, naive, released
from games.verification.worth import worth
from models.dropout import dropout_layers
from models.plan import Plan
from models.stepwise import Gradients
from models.victim import Victim
from proofs.reader import Proof, open_proof
from proofs.terms import Terms
from storage.records import jsonable
from unlearning.procedure import Request, Task
from unlearning.provable import drawn
from unlearning.service import Meter, Predictor

if TYPE_CHECKING:
    from data.examples import Data
    from games.game import Setup
    from games.verification.game import VerificationGame

log = logging.getLogger(__name__)
SECONDS = "seconds of making it"
NO_PROOF = Verdict(
    passed=False, statistic=float("inf"), threshold=0.0, level=None, power=None, reason="No proof was handed over."
)


@dataclass(frozen=True, eq=False)
class Scene:
    """What stands before the provider answers."""

    setup: Setup[VerificationGame]
    seed: int
    users: tuple[Tensor, ...]
    prepared: Prepared
    task: Task
    data: Data
    terms: Terms
    victim: Victim

    @property
    def deleted(self) -> Tensor:
        """The positions of all records that are asked for."""
        return torch.cat(self.users)


def play_one(setup: Setup[VerificationGame], seed: int) -> dict[str, Any]:
    """Play the game of `setup` with the root seed `seed`; docs/verification.md explains the fields of the record."""
    with workplace(setup, seed) as folder:
        began = perf_counter()
        scene = _scene(setup, seed, folder)
        learned = perf_counter()
        answer, proof, wrong = _answered(scene, folder)
        log.info("The provider has answered.")
        meter = Meter()
        began_to_verify = perf_counter()
        saved: list[float] = []
        if wrong:
            verdict = replace(NO_PROOF, reason=wrong)
        else:
            verdict = verified(setup.defense, _case(scene, answer.victim, proof, meter, saved))
        seconds = perf_counter() - began_to_verify + sum(saved)
        controls = _controls(scene, answer)
        kept = setup.game.proof.keep and proof is not None
        log_of_it = open_proof(folder / LOG) if (folder / LOG).exists() else None
        return {
            "seed": seed,
            "honest": bool(getattr(setup.attack, "honest", False)),
            "users": len(scene.users),
            "deleted": len(scene.deleted),
            "held_back": held_back(setup),
            "verdict": _described(verdict, setup.defense),
            "errors": described_errors(verdict.replay, proof, log_of_it, scene.deleted),
            "worth": worth(scene.task, scene.data, scene.deleted, answer.victim, scene.victim, controls),
            "cost": _cost(answer, controls, verdict, meter),
            "proof": None if proof is None else {
                "bytes": proof.size, "steps": proof.steps, "folder": str(folder / "proof") if kept else None,
            },
            "seconds": {
                "victim": learned - began, "provider": answer.seconds, "naive": controls.naive.seconds,
                "verification": seconds,
            },
            "memory_mb": {"peak": peak_memory_mb(), "gpu": peak_gpu_memory_mb(setup.device)},
        }  # fmt: skip


def _controls(scene: Scene, answer: Released) -> Controls:
    """Naive retraining by the recipe, and with as many updates as went into the original, and the released model."""
    setup, training = scene.setup, scene.task.training

    def naive_of(updates: int | None) -> Released:
        return naive(setup, scene.task, scene.deleted, scene.seed, updates)

    by_recipe = naive_of(None)
    if training.optimizer == "newton":
        return Controls(by_recipe, by_recipe, by_recipe)
    before = Plan(training, len(scene.task.records), ragged=True).steps
    honest = getattr(setup.attack, "honest", False)
    anew = setup.procedure.exact if honest else getattr(setup.attack, "trains_anew", False)
    made = answer.updates if anew and answer.updates else before + answer.updates
    equal = by_recipe if made == by_recipe.updates else naive_of(made)
    return Controls(by_recipe, equal, by_recipe if before == by_recipe.updates else naive_of(before))


def _scene(setup: Setup[VerificationGame], seed: int, folder: Path) -> Scene:
    data, users = brought(setup, seed)
    handed, task, data = handed_in(setup, data, users, seed)
    terms = challenged(setup.defense, generator(seed, "challenge"))
    terms = replace(terms, every=setup.game.proof.every if asks_for_proof(setup) else None)
    logs = getattr(setup.attack, "needs_log", False)
    if logs and dropout_layers(drawn(task, seed).module):  # whose masks a log draws step by step
        victim = logged_original(setup, task, seed, folder / LOG)
    else:
        victim = original(setup, task, seed)
    return Scene(setup, seed, users, handed, task, data, terms, victim)


def _logged(scene: Scene, folder: Path) -> Proof | None:
    """The log of how the original was trained, made where it is needed: a model in the store needs none."""
    if not getattr(scene.setup.attack, "needs_log", False):
        return None
    if not (folder / LOG).exists():
        victim = logged_original(scene.setup, scene.task, scene.seed, folder / LOG)
        if not torch.equal(victim.flat(), scene.victim.flat()):
            raise UserError(
                f"attack={called(scene.setup.attack)} works on a log of how the original was trained, and training it "
                "again gives another model on this device; use device=cpu."
            )
    return open_proof(folder / LOG)


def _answered(scene: Scene, folder: Path) -> tuple[Released, Proof | None, str]:
    """What the provider releases, the proof that it hands over where one is asked for, and what is wrong with that."""
    setup, recorder = scene.setup, None
    if asks_for_proof(setup):
        inputs = bool(getattr(setup.attack, "brings_inputs", False))
        recorder = writer(setup, scene.task, scene.victim, folder / "proof", scene.deleted, scene.terms, inputs)
    gradients = Gradients()
    demand = Demand(
        task=scene.task, original=scene.victim, request=Request(tuple(scene.deleted.tolist())),
        procedure=setup.procedure, auxiliary=scene.data.auxiliary, seed=scene.seed, terms=scene.terms,
        recorder=recorder, gradients=gradients,
    )  # fmt: skip
    try:
        answer = released(setup, demand, lambda: replace(demand, log=_logged(scene, folder)))
    finally:
        if recorder is not None:
            recorder.close()
    if recorder is None:
        return answer, None, ""
    if recorder.header is None:
        return answer, None, NO_PROOF.reason
    try:
        return answer, open_proof(folder / "proof"), ""
    except UserError as error:  # what the provider hands over is its own doing
        return answer, None, str(error)


def _case(scene: Scene, model: Victim, proof: Proof | None, meter: Meter, saved: list[float]) -> Case:
    setup, sees = scene.setup, getattr(scene.setup.defense, "sees", "predictions")
    opened = sees in ("model", "proof")
    return Case(
        task=scene.task, data=scene.data, users=scene.users, before=Predictor([scene.victim], meter),
        after=Predictor([model], meter), trusted=scene.data.trusted, seed=derive(scene.seed, "verification"),
        procedure=setup.procedure, secret=scene.prepared.secret, terms=scene.terms, model=model if opened else None,
        model_before=scene.victim if opened else None, proof=proof, remember=_remember(scene, saved),
    )  # fmt: skip


def _remember(scene: Scene, saved: list[float]) -> Remember:
    """What a verification computes once for every provider is kept in the store; the seconds so `saved` are noted."""
    setup = scene.setup

    def timed(make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        began = perf_counter()
        made = dict(make())
        return {**made, SECONDS: torch.tensor(perf_counter() - began, dtype=torch.float64)}

    def remember(name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        if setup.procedure.irreproducible:
            return dict(make())
        place = setup.keys.of(
            "defense", "game.users", "game.records", "game.held_back", code=("games.verification.play",)
        )
        key = {**place, **key_of_records(setup, scene.task), "seed": scene.seed, "name": name}
        found, kept = setup.store.tensors("reference", key, lambda: timed(make))
        spent = float(found.pop(SECONDS))
        if kept:
            saved.append(spent)
        return {each: value.to(setup.device) for each, value in found.items()}

    return remember


def _described(verdict: Verdict, defense: Any) -> dict[str, Any]:
    names = ("passed", "statistic", "threshold", "level", "power", "p_value", "reason")
    try:
        details = jsonable(dict(verdict.details))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"defense={called(defense)}: the details of a verdict must be plain numbers ({error})."
        ) from error
    return {**{name: getattr(verdict, name) for name in names}, "details": details}


def _cost(answer: Released, controls: Controls, verdict: Verdict, meter: Meter) -> dict[str, Any]:
    return {
        "provider_gradients": answer.gradients,
        "provider_updates": answer.updates,
        "naive_gradients": controls.naive.gradients,
        "naive_updates": controls.naive.updates,
        "equal_updates": controls.equal.updates,
        "verification_gradients": verdict.gradients,
        "verification_predictions": max(verdict.predictions, meter.predictions),
    }
