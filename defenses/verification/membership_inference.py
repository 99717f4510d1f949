"""Membership inference: do the deleted records still score like members, against records that no training saw?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Data, Examples
from data.randomness import derive, generator
from defenses.verification.verification import Case, Verdict, Verification
from metrics.membership import (
    ema_members,
    ema_metrics,
    ema_rho,
    ema_thresholds,
    lira_score,
    log_odds,
    separation,
)
from models.training import train
from unlearning.procedure import Task

LEAST, LEAST_EMA, ENOUGH_EMA = 8, 50, 500  # records: for the normal approximation, to ask at all, to conclude


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class MembershipInference(Verification):
    """Three tests of the deleted records D_u, all on predicted probabilities alone.

    loss: the score is `score` of the label, margin phi = log(p_y / (1 - p_y)) or loss (log p_y), less its mean over
    `references` models, which the owners train on the retained records by the declared recipe. Such a model saw neither
    D_u nor the trusted examples, so it says how hard each of them is, whoever trained on it (difficulty calibration,
    Watson et al., ICLR 2022). It costs retrainings; with 0 of them the scores are taken as they are, and margin and
    loss give one verdict, since the test uses ranks alone.
    lira: Lambda = log N(phi; in) - log N(phi; out), the Gaussians of every record from `shadows` models (Carlini et
    al., IEEE S&P 2022; for unlearning Kurmanji et al., NeurIPS 2023, and Hayes et al., arXiv 2403.01218). Every shadow
    is trained on all retained records with a random half of D_u and of the trusted examples, so that both groups have
    models that saw them and models that did not. Shadows are trained as the task says, not by way of the procedure.
    Both decide by a one-sided Mann-Whitney test of D_u against the trusted examples at level `alpha`. Under "forgotten"
    the groups differ in nothing if deleted records and trusted examples are draws from one population, and only then
    is an honest provider accused at the rate `alpha`. Records that the owners drew and held back are such draws;
    records that were chosen, moved or mislabelled are not, nor need examples of another file be.

    ema (Huang, Li, Li, MICCAI 2021): a calibration model, trained on the retained records, says which correctness,
    p_y and entropy tell members (retained) from non-members (trusted), per class; a deleted record counts as a member
    if the model in question reaches one of these thresholds. rho is the p-value of "all are members", and the
    verification passes iff rho < `ema_alpha`. A small rho speaks for the provider here, and nothing bounds the rate at
    which an honest one is accused. As it depends on little but the number of deleted records that do not look like
    members (three are enough, whatever their share), it concludes nothing from fewer than 500, which the reason says.

    All are asked of the model before, too, which did not forget: `before_*` in the details says what they would find.
    A provider who tunes the model until such tests are silent passes them.
    """

    name: ClassVar[str] = "membership_inference"
    holds_back: ClassVar[bool] = True
    test: Literal["loss", "lira", "ema"] = "loss"
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    score: Literal["margin", "loss"] = "margin"
    references: Annotated[int, Field(ge=0, le=1000)] = 0
    shadows: Annotated[int, Field(ge=4, le=10_000)] = 16
    pooled: bool = True
    ema_alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1

    def check(self, data: Data, users: tuple[Tensor, ...], task: Task) -> None:
        """Raise UserError where there are too few deleted records or trusted examples, or nothing is retained."""
        deleted, least = sum(map(len, users)), LEAST_EMA if self.test == "ema" else LEAST
        if deleted < least:
            raise UserError(
                f"defense={self.name}: defense.test={self.test} needs at least {least} deleted records, and there are "
                f"{deleted}; let more be deleted."
            )
        if len(data.trusted) < LEAST:
            raise UserError(
                f"defense={self.name} needs at least {LEAST} trusted examples, and there are {len(data.trusted)}; "
                "raise game.held_back, or data.trusted where that is 0."
            )
        if deleted >= len(task.records):
            raise UserError(f"defense={self.name}: all records are deleted, so nothing is left to train on.")

    def verify(self, case: Case) -> Verdict:
        """Ask the model after, and the one before, for D_u and the trusted examples."""
        if self.test == "ema":
            return self._ema(case)
        score, gradients = self._lira(case) if self.test == "lira" else self._loss(case)
        return self._compared(case, score, gradients)

    def _loss(self, case: Case) -> tuple[Callable[[Tensor], Tensor], int]:
        asked = _asked(case)
        if self.references == 0:
            return lambda p: self._plain(p, asked.y), 0
        kept, training = case.task.records[case.retained], case.task.training
        seeds = [derive(case.seed, self.name, "reference", k) for k in range(self.references)]

        def scores() -> dict[str, Tensor]:
            models = train(case.task.build, kept, training, seeds, label="training reference models")
            return {"mean": self._plain(models.probabilities(asked.x), asked.y).mean(0)}

        difficulty = case.remember("reference models", scores)["mean"]
        gradients = self.references * training.epochs * len(kept)
        return lambda p: self._plain(p, asked.y) - difficulty, gradients

    def _plain(self, probabilities: Tensor, y: Tensor) -> Tensor:
        phi = log_odds(probabilities, y).double()
        return phi if self.score == "margin" else torch.nn.functional.logsigmoid(phi)

    def _lira(self, case: Case) -> tuple[Callable[[Tensor], Tensor], int]:
        asked, kept = _asked(case), case.task.records[case.retained]
        pool = Examples(torch.cat([kept.x, asked.x]), torch.cat([kept.y, asked.y]))
        rng = generator(case.seed, self.name, "halves")
        # every record is in half of the shadow models
        inside = torch.rand(self.shadows, len(asked), generator=rng).argsort(0) < self.shadows // 2
        chosen = torch.cat([torch.ones(self.shadows, len(kept), dtype=torch.bool), inside], dim=1)
        # The objective divides by the number of all records that were handed in, deleted ones included.
        weights = chosen.to(pool.x) * (len(pool) / len(case.task.records))
        seeds = [derive(case.seed, self.name, "shadow", s) for s in range(self.shadows)]

        def scores() -> dict[str, Tensor]:
            models = train(
                case.task.build, pool, case.task.training, seeds, 1 - weights, label="training shadow models"
            )
            return {"phi": log_odds(models.probabilities(asked.x), asked.y)}

        phi = case.remember("shadow models", scores)["phi"]
        gradients = int(chosen.sum()) * case.task.training.epochs
        return lambda p: lira_score(log_odds(p, asked.y), phi, inside, self.pooled), gradients

    def _compared(self, case: Case, score: Callable[[Tensor], Tensor], gradients: int) -> Verdict:
        asked, deleted = _asked(case), len(case.deleted)
        after, before = (score(model.predict(asked.x)).cpu() for model in (case.after, case.before))
        found, kept = (separation(each[:deleted], each[deleted:], self.alpha) for each in (after, before))
        passed = found.auc <= found.critical
        what = "score like examples that no training saw" if passed else "score higher than examples no training saw"
        details: dict[str, Any] = {
            **found.as_dict(),
            "before_statistic": kept.auc,
            "before_p": kept.p_value,
            "before_caught": int(kept.auc > kept.critical),
        }
        return Verdict(
            passed=passed,
            statistic=found.auc,
            threshold=found.critical,
            level=self.alpha,
            power=None,
            p_value=found.p_value,
            reason=f"The deleted records {what} (AUC {found.auc:.3f}, p = {found.p_value:.2g}).",
            gradients=gradients,
            predictions=2 * len(asked),
            details=details,
        )

    def _ema(self, case: Case) -> Verdict:
        task = case.task
        kept, queries = task.records[case.retained], task.records[case.deleted]
        thresholds = case.remember("calibration model", lambda: {"thresholds": _thresholds(case, kept, self.name)})
        after, before = (
            ema_members(ema_metrics(model.predict(queries.x), queries.y), queries.y, thresholds["thresholds"].cpu())
            for model in (case.after, case.before)
        )
        rho, rho_before = ema_rho(after), ema_rho(before)
        missing, passed = int((~after).sum()), rho < self.ema_alpha
        reason = f"{missing} of {len(queries)} deleted records do not look like members (rho = {rho:.2g})"
        if len(queries) < ENOUGH_EMA:
            reason += f"; with fewer than {ENOUGH_EMA} records that is inconclusive"
        return Verdict(
            passed=passed,
            statistic=rho,
            threshold=self.ema_alpha,
            level=None,
            power=None,
            reason=f"{reason}.",
            gradients=task.training.epochs * len(kept),
            predictions=2 * len(queries),
            details={
                "members": len(queries) - missing,
                "queries": len(queries),
                "conclusive": int(len(queries) >= ENOUGH_EMA),
                "before_statistic": rho_before,
                "before_caught": int(rho_before >= self.ema_alpha),
            },
        )


def _thresholds(case: Case, kept: Examples, name: str) -> Tensor:
    """What tells members from non-members under a model that learned the retained records, (3, classes)."""
    training, trusted = case.task.training, case.trusted
    model = train(case.task.build, kept, training, [derive(case.seed, name, "calibration")], label="calibrating")[0]
    seen, unseen = (ema_metrics(model.probabilities(part.x), part.y) for part in (kept, trusted))
    return ema_thresholds(seen, kept.y, unseen, trusted.y, len(case.data.classes))


def _asked(case: Case) -> Examples:
    """The deleted records, then the trusted examples."""
    own = case.task.records[case.deleted]
    return Examples(torch.cat([own.x, case.trusted.x]), torch.cat([own.y, case.trusted.y]))
