"""Black-box selection of deletions: search by swaps, zeroth-order or evolutionary, on the answers of a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting import evolution, swaps, zeroth_order
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult, requests_from
from attacks.crafting.objective import CandidatePredictions, Objective
from attacks.crafting.responses import forecast_gains
from data.errors import UserError
from models.progress import progress
from unlearning.procedure import Request
from unlearning.service import Service

UPDATES = {"sgd": zeroth_order.zo_sgd, "sign": zeroth_order.zo_sign, "adamm": zeroth_order.zo_adamm}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ScoreSearch:
    """Search over the candidate records for a request of `budget` of them, by one of three methods.

    `swaps` exchanges single records of the best set so far, `workers` exchanges at a time, and learns what each record
    is worth. The others search over one score per candidate, whose `budget` highest are decoded into a request:
    `zeroth_order` estimates the gradient of the objective in the scores (`estimator`) and steps with ZO-SGD, ZO-sign or
    ZO-AdaMM (`update`, `lr`); `evolution` uses the nevergrad optimiser `optimiser`. A whole generation of candidates is
    asked for at once, and `queries` bounds how many are.

    `start`: what the search knows at first. `responses` forecasts what each deletion does from predictions on the
    attacker's own records (`attacks.crafting.responses`); `zeros` is nothing. `shortlist` keeps that many candidates,
    the best by the start (at random with `zeros`).
    """

    method: Literal["swaps", "zeroth_order", "evolution"] = "swaps"
    start: Literal["responses", "zeros"] = "responses"
    shortlist: Annotated[int, Field(ge=1)] | None = None
    estimator: zeroth_order.Estimator = Field(
        default_factory=lambda: zeroth_order.Estimator(smoothing=0.3, ranked=True)
    )
    update: Literal["sgd", "sign", "adamm"] = "adamm"
    lr: Annotated[float, Field(gt=0)] = 0.1
    optimiser: str = evolution.DEFAULT
    workers: Annotated[int, Field(ge=1)] = 20

    def check_budget(self, budget: int) -> None:
        """Raise UserError for a shortlist that is shorter than a request may be."""
        if self.shortlist is not None and self.shortlist < budget:
            raise UserError(
                f"attack.search.shortlist={self.shortlist} leaves fewer candidates than attack.budget={budget} asks "
                "for; raise it, or lower attack.budget."
            )


def check_search(search: ScoreSearch, pool: int, queries: int) -> None:
    """Make sure that `search` over `pool` records can begin with `queries` queries.

    Raises:
        UserError: where not one gradient estimate is possible, and for an optimiser that nevergrad does not have.
    """
    if search.method == "swaps":
        return
    if search.method == "evolution":
        evolution.check_optimiser(search.optimiser)
        return
    pool = min(pool, search.shortlist or pool)
    per_step, estimator = zeroth_order.evaluations(search.estimator, pool), search.estimator
    if per_step > queries:
        raise UserError(
            f"One gradient estimate takes {per_step} queries and the budget is attack.queries={queries}; "
            "lower attack.search.estimator.directions or raise attack.queries."
        )
    if estimator.kind == "orthonormal" and estimator.directions > pool:
        raise UserError(
            f"There are no {estimator.directions} orthonormal directions among {pool} records; lower "
            "attack.search.estimator.directions."
        )


class BlackBoxObjective:
    """The objective of one goal as a black-box attacker can compute it, with a memory of the best feasible request.

    `noisy` (P, T, *shape) are further inputs for every target, which the objective then finds behind the target itself
    as samples of the same model: `log_p` is (m, 1 + P, T, K). `aim` is what a forecast of deletions is made for, which
    has slopes: the objective without penalties, unless another is given.
    """

    def __init__(
        self, service: Service, goal: AttackGoal, attacker: Attacker, objective: Objective,
        noisy: Tensor | None = None, aim: Objective | None = None,
    ) -> None:  # fmt: skip
        self.service, self.goal, self.attacker, self.objective = service, goal, attacker, objective
        self.aim, self.of_labels = (aim or objective).without_penalties(), noisy is not None
        self.shown = goal.x[None] if noisy is None else torch.cat([goal.x[None], noisy])
        self.inputs = torch.cat([self.shown.flatten(0, 1), attacker.reference.x])
        before = service.predict(attacker.reference.x)
        self.reference_labels = before.argmax(-1)
        chosen = before.gather(-1, attacker.reference.y[:, None])
        self.reference_loss = -chosen.clamp_min(torch.finfo(before.dtype).tiny).log().mean()
        self.now = self.predictions([service])
        self.value = float(objective.rank(self.now))
        self.request = Request(())
        self.curve = [self.value]

    def predictions(self, services: list[Service]) -> CandidatePredictions:
        """What each of `services` predicts for the targets and the reference examples."""
        return self._read(torch.stack([service.predict(self.inputs) for service in services]))

    def _read(self, answers: Tensor) -> CandidatePredictions:
        """The same from what was answered for `inputs`, (m, inputs, K)."""
        log_p = answers.clamp_min(torch.finfo(answers.dtype).tiny).log()
        count, of_targets = len(answers), self.shown.shape[:2]
        on_targets, on_reference = log_p.split([of_targets.numel(), len(self.attacker.reference)], dim=1)
        return CandidatePredictions(
            log_p=on_targets.unflatten(1, of_targets),
            labels=self.goal.labels.expand(count, -1),
            direction=log_p.new_full((count,), self.goal.direction),
            reference=on_reference[:, None],
            reference_labels=self.reference_labels,
            reference_truth=self.attacker.reference.y,
            reference_loss=self.reference_loss,
        )

    def losses(self, masks: Tensor) -> Tensor:
        """The regularised objective (m,) of requests given as masks (m, c) over the pool; one query each."""
        return self.asked(requests_from(masks, self.attacker))

    def asked(self, requests: list[Request]) -> Tensor:
        """The same for requests, which may bring copies."""
        return self._remembered(requests, self._read(self.service.answers(requests, self.inputs)))

    def record(self, request: Request, service: Service) -> Tensor:
        """Remember a request where it is the best feasible one so far, and return the loss (1,) at what came of it."""
        return self._remembered([request], self.predictions([service]))

    def _remembered(self, requests: list[Request], predictions: CandidatePredictions) -> Tensor:
        ranks, feasible = self.objective.rank(predictions).tolist(), self.objective.feasible(predictions).tolist()
        for request, rank, allowed in zip(requests, ranks, feasible, strict=True):
            if allowed and rank < self.value:
                self.value, self.request = rank, request
            self.curve.append(self.value)
        return self.objective.loss(predictions)

    def forecast(self) -> Tensor:
        """How much each record of the pool is forecast to lower the aim when it is deleted (c,), of no known scale."""
        owned, targets = self.attacker.owned, self.goal.x
        return forecast_gains(self.service, owned, targets, self.aim, self.now, self.of_labels)

    def result(self) -> AttackResult:
        """What was found."""
        return AttackResult(self.request, self.value, tuple(self.curve))


def search_scores(
    black_box: BlackBoxObjective, search: ScoreSearch, budget: int, rng: torch.Generator, queries: int | None = None
) -> AttackResult:
    """Spend `queries`, by default the service's query budget, on requests of `budget` records, or at most as many.

    Returns the best feasible one. Swaps ask for less only where a full request does not help. `zeroth_order` asks for
    whole gradient estimates, so fewer queries than one estimate takes may be left over.
    """
    queries = black_box.service.queries_left() if queries is None else queries
    size = len(black_box.attacker.pool)
    search.check_budget(budget)
    check_search(search, size, queries)
    scores, order = _start(black_box, search, rng)
    with progress("asking the service", queries) as tick:

        def asked(masks: Tensor) -> Tensor:
            rows = torch.zeros(len(masks), size, dtype=torch.bool).index_copy_(1, order, masks)
            found = black_box.losses(rows).cpu()
            tick(len(masks))
            return found

        if search.method == "swaps":
            empty = float(black_box.objective.loss(black_box.now))
            swaps.search(asked, scores, budget, queries, search.workers, empty)
        elif search.method == "evolution":
            initial = None if search.start == "zeros" else scores
            workers = min(search.workers, queries)
            evolution.search(asked, len(scores), budget, queries, rng, search.optimiser, workers, initial)
        else:
            _descend(asked, search, scores, budget, queries, rng)
    return black_box.result()


def _start(black_box: BlackBoxObjective, search: ScoreSearch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scores of the candidates, falling, with deviation 1 over the pool or all 0, and their positions in the pool."""
    size = len(black_box.attacker.pool)
    order = torch.randperm(size, generator=rng)
    scores = torch.zeros(size, dtype=black_box.goal.x.dtype)
    if search.start == "responses":
        gains = black_box.forecast().cpu()
        spread = gains.std(correction=0)
        scores = (gains - gains.mean()) / spread if spread > 0 else scores
        order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[: search.shortlist]
    return scores[order], order


def _descend(
    asked: Callable[[Tensor], Tensor],
    search: ScoreSearch,
    scores: Tensor,
    budget: int,
    queries: int,
    rng: torch.Generator,
) -> None:
    """Steps along estimated gradients, each with a trial of the scores that it leads to."""
    per_step, left = zeroth_order.evaluations(search.estimator, len(scores)), queries
    scores = scores.clamp(-3, 3)
    state = zeroth_order.start(scores)

    def objective(points: Tensor) -> Tensor:
        nonlocal left
        left -= len(points)
        return asked(zeroth_order.decode_top(points, budget))

    while left >= per_step:
        gradient, _, _ = zeroth_order.estimate(search.estimator, objective, scores, rng)
        scores, state = UPDATES[search.update](scores, gradient, state, search.lr, lambda s: s.clamp(-3, 3))
        if left > 0:
            objective(scores[None])
