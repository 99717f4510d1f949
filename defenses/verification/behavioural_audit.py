"""Behavioural audit: are the provider's answers those of models that forgot, or of models that did too little?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Data
from data.randomness import derive, generator
from defenses.verification.verification import Case, Sight, Verdict, Verification
from metrics.intervals import rate_interval
from metrics.transcripts import Covariance, Worlds, coupling, cross_fitted, discriminating, fitted, log_odds
from models.gradients import inner_products
from models.passes import models_at_once
from models.training import initialise, train
from models.victim import ModelStack, Tensors, Victim, frozen_names, stack
from unlearning.procedure import Procedure, Task, learned, unlearned
from unlearning.provable import Account, in_steps

LEAST = 4  # models that know a record, and that do not, for an audit to say what it learns of it


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class BehaviouralAudit(Verification):
    """Train models of an honest and of a dishonest provider, and ask which of them the provider's model answers like.

    The auditor trains `worlds` models on the deleted records and a `share` of the retained ones, and lets the declared
    procedure forget: theta_u. They are the honest world; theta + eta (theta_u - theta) is the dishonest one, where
    `eta` is what a provider does of the step (0: nothing). Each model answers T = `inputs` trusted queries with its
    log-odds of the true class, `random` ones or the most `discriminating`. A Gaussian of the T answers is fitted to
    either world (`covariance` diagonal | ledoit_wolf), and the statistic is the log-likelihood ratio of the provider's
    answers, dishonest over honest, in nats, with the threshold 0.

    `level` (alpha') and `power` (1 - alpha, against that eta) are cross-fitted: every model is judged by Gaussians, and
    at queries, that the models of the other `folds` gave. They hold for a provider that makes its model as these
    are made, on as many records and by the same steps, which is why a procedure with steps of its own makes them here
    too, and why `share` is 1: with a random half, answers are less sure of themselves than the
    provider's, and every honest one is accused. The details have `misfit`, the mean square of the answers as the honest
    Gaussian standardises them: about 1 where they fit.

    With a share below 1 the other side of the bargain can be seen: for the `curious` retained records with the largest
    coupling kappa, how well the same transcript tells whether they were in the training set (J, cross-fitted too).
    Source: Tang, Joshi, Kundu, arXiv 2606.14518 (the two worlds, transcripts, eta and kappa). Ours: the deleted records
    are in every training set before, both worlds come from the same models, and errors are counted out of sample.
    """

    name: ClassVar[str] = "behavioural_audit"
    sees: ClassVar[Sight] = "predictions"
    worlds: Annotated[int, Field(ge=4)] = 32
    eta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    queries: Literal["random", "discriminating"] = "random"
    inputs: Annotated[int, Field(ge=1)] = 50
    covariance: Covariance = "diagonal"
    folds: Annotated[int, Field(ge=2)] = 8
    clamp: Annotated[float, Field(gt=0, lt=0.5)] = 1e-9
    curious: Annotated[int, Field(ge=0)] = 0

    def check(self, data: Data, users: tuple[Tensor, ...], task: Task) -> None:
        """Raise UserError where there are too few trusted examples, models or retained records."""
        if self.inputs > len(data.trusted):
            raise UserError(
                f"defense.inputs={self.inputs} queries are drawn from {len(data.trusted)} trusted examples; lower it, "
                "or raise data.trusted."
            )
        if self.folds > self.worlds:
            raise UserError(f"defense.folds={self.folds} need as many models; raise defense.worlds={self.worlds}.")
        if self.curious and (self.share == 1 or self.worlds < 2 * LEAST):
            raise UserError(
                f"defense.curious compares models that know a record with models that do not; set defense.share below "
                f"1 (0.5, say), and defense.worlds to at least {2 * LEAST}."
            )
        retained = len(task.records) - sum(map(len, users))
        if round(self.share * retained) < 1:
            raise UserError(f"defense.share={self.share} of {retained} retained records is none; raise it.")

    def verify(self, case: Case) -> Verdict:
        """Whether the provider's answers are likelier in the honest world; answers that are no numbers do not pass."""
        pool = case.trusted if self.queries == "discriminating" else case.trusted[self._random(case)]
        left = self._left_out(case)
        kept = case.remember("answers", lambda: self._answers(case, left, pool.x, pool.y))
        worlds, kappa = Worlds(kept["honest"].cpu(), kept["dishonest"].cpu()), kept["kappa"].cpu()
        choose = self.inputs if self.queries == "discriminating" else None
        errors = cross_fitted(worlds, self.folds, self.covariance, choose)
        chosen = discriminating(worlds, self.inputs) if choose else torch.arange(len(pool))
        answers = log_odds(case.after.predict(pool.x[chosen]), pool.y[chosen], self.clamp).cpu()[None]
        test = fitted(worlds.at(chosen), self.covariance)
        details: dict[str, Any] = {
            "alpha": errors.miss,
            "alpha_prime": errors.false_alarm,
            "J_compliance": errors.advantage,
            "J_standard_error": errors.standard_error,
            "models": self.worlds,
            **_bounds("alpha", errors.miss, self.worlds),
            **_bounds("alpha_prime", errors.false_alarm, self.worlds),
        }
        sane = bool(answers.isfinite().all())
        if sane:
            details["misfit"] = float(test.honest.standardised(answers).square().mean())
        details |= self._curiosity(case, left, worlds.honest[:, chosen], kappa)
        ratio = float(test.statistic(answers)) if sane else float("inf")
        return Verdict(
            passed=ratio <= 0,
            statistic=ratio,
            threshold=0.0,
            level=errors.false_alarm,
            power=1 - errors.miss,
            reason=self._reason(ratio),
            gradients=self._evaluations(case, left),
            predictions=self.inputs,
            details=details,
        )

    def _reason(self, ratio: float) -> str:
        if ratio == float("inf"):
            return "Answers are not finite numbers, which no model of either world gives."
        whose = "did the whole" if ratio <= 0 else f"did {self.eta:g} of the"
        return f"The {self.inputs} answers are likelier from models that {whose} step, by {abs(ratio):.3g} nats."

    def _random(self, case: Case) -> Tensor:
        rng = generator(case.seed, "behavioural audit", "queries")
        return torch.randperm(len(case.trusted), generator=rng)[: self.inputs].to(case.trusted.y.device)

    def _left_out(self, case: Case) -> Tensor:
        """For each model the records that it never sees (N, n), bool, on the CPU: a part of the retained."""
        retained, n = case.retained, len(case.task.records)
        size = round((1 - self.share) * len(retained))
        left = torch.zeros(self.worlds, n, dtype=torch.bool)
        if case.task.forgotten is not None:
            left |= case.task.forgotten.cpu() > 0
        for model, row in enumerate(left):
            rng = generator(case.seed, "behavioural audit", "records", model)
            row[retained[torch.randperm(len(retained), generator=rng)[:size]]] = True
        return left

    def _answers(self, case: Case, left: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The answers of both worlds at `x`, (N, len(x)) each, and kappa of the retained records where it is asked for.

        One stack of models is held at a time, and of it only the answers stay.
        """
        found: list[tuple[Tensor, Tensor]] = []
        kappa = torch.zeros(0)
        for before, after in trained(case, left):
            models = (after, _between(before, after, self.eta))
            honest, dishonest = (log_odds(each.logits(x).softmax(-1), y, self.clamp).cpu() for each in models)
            found.append((honest, dishonest))
            if self.curious and not len(kappa):
                kappa = _coupling(case, before[0], after[0], self.eta)
        honest, dishonest = (torch.cat(parts) for parts in zip(*found, strict=True))
        return {"honest": honest, "dishonest": dishonest, "kappa": kappa}

    def _curiosity(self, case: Case, left: Tensor, answers: Tensor, kappa: Tensor) -> dict[str, list[float]]:
        """J of telling models that know a record from those that do not, by their honest `answers` (N, T)."""
        if not self.curious:
            return {}
        retained = case.retained.cpu()
        without = left[:, retained].sum(0)
        enough = (without >= LEAST) & (self.worlds - without >= LEAST)
        order = torch.where(enough, kappa, -1).argsort(descending=True, stable=True)
        found: dict[str, list[float]] = {"curious_records": [], "kappa": [], "J_curiosity": []}
        for place in order[: min(self.curious, int(enough.sum()))].tolist():
            out = left[:, retained[place]]
            groups = Worlds(answers[out], answers[~out])
            folds = min(self.folds, min(map(len, groups)) // 2)
            found["curious_records"].append(int(retained[place]))
            found["kappa"].append(float(kappa[place]))
            found["J_curiosity"].append(cross_fitted(groups, folds, self.covariance).advantage)
        return found

    def _evaluations(self, case: Case, left: Tensor) -> int:
        """Examples x epochs of all training, and the gradients of kappa.

        What a procedure that does not retrain takes to forget is not counted, for nobody knows it.
        """
        seen = int((~left).sum())
        again = seen - self.worlds * len(case.deleted) if case.procedure.exact else 0
        kappa = len(case.retained) + len(case.deleted) if self.curious else 0
        return (seen + again) * case.task.training.epochs + kappa


def _bounds(name: str, rate: float, n: int) -> dict[str, float]:
    found = rate_interval(round(rate * n), n)  # counted on n models
    return {f"{name}_low": found.low, f"{name}_high": found.high}


def trained(case: Case, left: Tensor) -> Iterator[tuple[ModelStack, ModelStack]]:
    """Models that never saw the records `left` out (N, n), before and after the declared procedure has forgotten.

    What learns plainly is trained in stacks, and again where that is what the procedure amounts to.
    """
    task, procedure = case.task, case.procedure
    records = task.records
    rows = left.to(records.x)
    deleted = torch.zeros_like(rows[:1])
    deleted[0, case.deleted.to(rows.device)] = 1
    seeds = [derive(case.seed, "behavioural audit", "model", model) for model in range(len(rows))]
    plain = type(procedure).learn is Procedure.learn and type(procedure).architecture is Procedure.architecture
    size = 1
    if plain:
        size = min(task.training.together, models_at_once(Victim(*initialise(task.build, seeds[0], records.x))))
    for first in range(0, len(rows), size):
        part, own = rows[first : first + size], seeds[first : first + size]
        tasks = [replace(task, forgotten=row) for row in part]
        if plain:
            before = train(task.build, records, task.training, own, part, label="training the auditor's models")
        else:
            before = stack([learned(procedure, tasks[0], own[0])])
        stepwise = in_steps(procedure, task)
        if stepwise is not None:  # as the provider's own model is made, batch by batch
            made = zip(tasks, (before[i] for i in range(len(own))), own, strict=True)
            yield (
                before,
                stack([stepwise.forget_provably(of, model, case.deleted, seed, Account()) for of, model, seed in made]),
            )
            continue
        if plain and procedure.exact:
            gone = torch.maximum(part, deleted)
            yield before, train(task.build, records, task.training, own, gone, label="retraining the auditor's models")
            continue
        each = zip(tasks, own, range(len(own)), strict=True)
        yield before, stack([unlearned(procedure, of, before[i], deleted, seed)[0] for of, seed, i in each])


def _between(before: ModelStack, after: ModelStack, eta: float) -> ModelStack:
    """theta + eta (theta_u - theta), and buffers likewise where they are no counts."""
    if eta == 0:
        return before

    def moved(old: Tensors, new: Tensors, fixed: set[str]) -> Tensors:
        skip = {name for name in old if name in fixed or not old[name].is_floating_point()}
        return {name: old[name] if name in skip else torch.lerp(old[name], new[name], eta) for name in old}

    fixed = set(frozen_names(before.module))
    parameters = moved(before.moving, after.moving, set())
    return replace(after, parameters=parameters, buffers=moved(before.buffers, after.buffers, fixed))


def _coupling(case: Case, before: Victim, after: Victim, eta: float) -> Tensor:
    """kappa of every retained record at one model, with its own step of forgetting, on the CPU."""
    step = after.flat() - before.flat()
    records, device = case.task.records, case.task.records.y.device
    kept, gone = (inner_products(before, records[at.to(device)], step) for at in (case.retained, case.deleted))
    return coupling(kept, gone.sum(), eta).cpu()
