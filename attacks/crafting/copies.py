"""Submitted copies: how far they may lie from the attacker's records, and the search for those that serve best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting import zeroth_order
from attacks.crafting.attack import Attacker, AttackResult
from attacks.crafting.black_box import BlackBoxObjective
from attacks.crafting.objective import Objective
from attacks.crafting.white_box import WhiteBoxObjective
from data.bounds import at_most
from data.errors import UserError
from data.examples import Examples, bounds
from models.progress import progress
from unlearning.procedure import Procedure, Request, TakesCopies, as_weights, submitted_copies

Norm = Literal["linf", "l2"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Copies:
    """Copies x~ of the requested records, submitted in their place: ||x~_i - x_i|| <= `radius`, labels unchanged.

    The radius is in units of what enters the model, in the `norm` linf or l2 of every single record; copies stay within
    the values that the attacker's records take. With 0 records are submitted as they are.
    White-box: `steps` of descent of `step` radii each, along the sign of the slope (linf) or the slope scaled to unit
    length (l2); the best copies are kept. Black-box: the slope is estimated from queries (`estimator`, whose smoothing
    is in radii), and followed by its sign with momentum.
    Copies have an effect where the server computes with them; one that deletes its own records is immune.
    """

    norm: Norm = "linf"
    radius: Annotated[float, Field(ge=0)] = 0.0
    steps: Annotated[int, Field(ge=1), at_most(100_000, "each runs the procedure")] = 30
    step: Annotated[float, Field(gt=0, le=2)] = 0.25
    estimator: zeroth_order.Estimator = Field(default_factory=lambda: zeroth_order.Estimator(smoothing=0.1))


def require_copies(procedure: Procedure, record: str, attack: str) -> None:
    """Raise UserError where copies have no effect that a white-box attack could differentiate."""
    if record == "own":
        raise UserError(
            f"A white-box {attack} attack with copies needs a server that computes with them, and this one deletes the "
            "records that it has stored; set game.service.record=submitted."
        )
    if not isinstance(procedure, TakesCopies):
        raise UserError(
            f"A white-box {attack} attack with copies needs the gradient of the procedure in them, and "
            f"{type(procedure).__name__} has none: it deletes the records that are stored, or cannot be "
            "differentiated; use unlearning=first_order, second_order, gradient_ascent or influence_replacement."
        )


@plain_dataclass(frozen=True, eq=False)
class Around:
    """The copies that are allowed around records `origin` (k, *shape), between `low` and `high`."""

    origin: Tensor
    low: Tensor
    high: Tensor
    norm: Norm
    radius: float

    @classmethod
    def of(cls, copies: Copies, origin: Tensor, attacker: Attacker) -> Around:
        """Around these records, within the least and the largest value of any of the attacker's, by channel."""
        return cls(origin, *bounds(attacker.owned.x), copies.norm, copies.radius)

    def project(self, x: Tensor) -> Tensor:
        """The nearest allowed copies to `x`; the box holds the records, so that clipping to it brings none farther."""
        moved = x - self.origin
        if self.norm == "linf":
            moved = moved.clamp(-self.radius, self.radius)
        else:
            moved = moved * (self.radius / self._lengths(moved).clamp_min(self.radius))
        return torch.minimum(torch.maximum(self.origin + moved, self.low), self.high)

    def moved(self, x: Tensor, slopes: Tensor, step: float) -> Tensor:
        """`x` after a step of `step` radii against the `slopes`."""
        if self.norm == "linf":
            return self.project(x - step * self.radius * slopes.sign())
        tiny = torch.finfo(x.dtype).tiny
        return self.project(x - step * self.radius * slopes / self._lengths(slopes).clamp_min(tiny))

    def _lengths(self, x: Tensor) -> Tensor:
        return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))


def perturbed(
    white_box: WhiteBoxObjective,
    objective: Objective,
    attacker: Attacker,
    results: Sequence[AttackResult],
    copies: Copies,
) -> list[AttackResult]:
    """The requests with the copies that descent finds, one request after the other, judged by the true procedure.

    It goes on from the copies that a request has. What it gives is never worse, by the objective's rank among feasible
    candidates, than the request with its records as they are.
    """
    found = []
    with progress("perturbing copies", len(results)) as tick:
        for goal, result in enumerate(results):
            empty = not result.request.indices
            found.append(result if empty else _descended(white_box, objective, attacker, goal, result, copies))
            tick()
    return found


def _descended(
    white_box: WhiteBoxObjective, objective: Objective, attacker: Attacker, goal: int, result: AttackResult,
    copies: Copies,
) -> AttackResult:  # fmt: skip
    positions = torch.tensor(result.request.indices, device=attacker.pool.device)
    stored = white_box.service.task.records[positions]
    around = Around.of(copies, stored.x, attacker)
    x = stored.x if result.request.examples is None else around.project(result.request.examples.x)
    best, curve = replace(result, objective=float("inf")), list(result.curve)
    for step in range(copies.steps + 1):
        request = replace(result.request, examples=Examples(x, stored.y))
        rank, slopes = slopes_of_copies(white_box, objective, goal, request)
        if rank < best.objective:
            best = AttackResult(request, rank)
        curve.append(min([best.objective, *curve[-1:]]))
        if step < copies.steps:
            x = around.moved(x, slopes, copies.step)
    if not best.objective <= result.objective:  # no feasible copies are as good as the records themselves
        best = result
    return AttackResult(best.request, best.objective, tuple(curve))


def slopes_of_copies(
    white_box: WhiteBoxObjective, objective: Objective, goal: int, request: Request
) -> tuple[float, Tensor]:
    """The objective's rank after a request with copies (infinite where it is not feasible), and dL/dx~ (k, *shape)."""
    service, owner = white_box.service, torch.tensor([goal], device=white_box.x.device)
    predictions, cotangents = white_box.pulled(white_box.models_after(request), owner, objective)
    at = submitted_copies(request, service.task.records)
    assert at is not None  # the request has copies
    deleted, positions = as_weights([request], service.task.records)[0], list(request.indices)
    procedure: TakesCopies = service.procedure  # type: ignore[assignment]
    slopes = [
        procedure.copies_vjp(service.task, victim, deleted, cotangent[0], at)[positions]
        for victim, cotangent in zip(service.victims, cotangents, strict=True)
    ]
    feasible = bool(objective.feasible(predictions)[0])
    return float(objective.rank(predictions)[0]) if feasible else float("inf"), torch.stack(slopes).sum(0)


def search_copies(
    black_box: BlackBoxObjective, attacker: Attacker, request: Request, copies: Copies, rng: torch.Generator
) -> AttackResult:
    """Spend the service's query budget on copies of the records of one request; returns the best feasible ones.

    Unknown is what is added to every record, in radii. A gradient estimate is asked for as a whole, then the point that
    its step leads to, so fewer queries than that may be left over.
    """
    row_of = {position: row for row, position in enumerate(attacker.pool.tolist())}
    stored = attacker.owned[torch.tensor([row_of[position] for position in request.indices])]
    around, service = Around.of(copies, stored.x, attacker), black_box.service

    def copied(point: Tensor) -> Tensor:
        return around.project(around.origin + copies.radius * point.reshape(stored.x.shape).to(stored.x))

    def asked(points: Tensor) -> Tensor:
        requests = [replace(request, examples=Examples(copied(point), stored.y)) for point in points]
        losses = black_box.asked(requests)
        tick(len(requests))
        return losses.cpu()

    point = torch.zeros(stored.x.numel(), dtype=stored.x.dtype)
    state, per_step = zeroth_order.start(point), zeroth_order.evaluations(copies.estimator, len(point))
    with progress("asking the service", service.queries_left()) as tick:
        asked(point[None])
        while service.queries_left() > per_step:
            gradient, _, _ = zeroth_order.estimate(copies.estimator, asked, point, rng)
            point, state = zeroth_order.zo_sign(point, gradient, state, copies.step, lambda p: p.clamp(-1, 1))
            asked(point[None])
    return black_box.result()
