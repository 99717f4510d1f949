"""Flexible attack: what request sets do to the model is measured once, and serves for targets that are chosen later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import vmap

from attacks.crafting.access import Opened
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.criterion import Criterion, LabelFlipped
from attacks.crafting.requester import OPTIONS, NormCap, Requester
from attacks.crafting.selection import most_useful
from data.bounds import at_most
from data.errors import UserError
from data.examples import Examples
from models.committee import Committee
from models.gradients import gradients_at_once, weighted_gradient
from models.last_layer import only_last_layer, to_last_layer
from models.passes import models_at_once
from models.progress import progress
from models.victim import Victim, forward
from unlearning.procedure import Differentiable, Request
from unlearning.service import OpenService

LARGEST = 2**16  # parameters whose displacements are kept


@plain_dataclass(frozen=True, eq=False)
class Displacements:
    """M request sets with what each does to the model; made before any target is known.

    `members` (M, n) has 1 where a record is in a set; `moved` (M, p') is d_j = theta'(S_j) - theta in the parameters of
    `seen`, which are all of the model's, or those of its last layer.
    """

    seen: Victim
    members: Tensor
    moved: Tensor

    @cached_property
    def _reduced(self) -> tuple[np.ndarray, np.ndarray]:
        """Q (p', r) and R (r, M) of the displacements: what is orthogonal to all of them no combination reaches."""
        q, r = np.linalg.qr(self.moved.T.double().cpu().numpy())
        return q, r

    def realised(self, wanted: Tensor) -> Tensor:
        """a (M,) >= 0 with the smallest ||sum_j a_j d_j - d*||, for d* = `wanted` (p',): non-negative least squares.

        At most p' of them are not 0 (Caratheodory). d* is scaled by the longest displacement first.
        """
        from scipy.optimize import nnls  # takes long to import

        q, r = self._reduced
        target = q.T @ wanted.double().cpu().numpy()
        largest = max(np.abs(target).max(), np.finfo(float).tiny)
        scale = max(np.abs(r).max(), np.finfo(float).tiny)
        weights = torch.from_numpy(nnls(r / scale, target / largest)[0] * largest / scale)
        return weights.to(self.moved)

    def of_records(self, slope: Tensor, ridge: float) -> Tensor:
        """<slope, d_i> (n,) of every single record i, by ridge regression from the sets, to which its records add up.

        d = M'(M M' + ridge I)^{-1} D for the members M (M, n) and the displacements D (M, p'); `slope` is (p',).
        """
        overlap = self.members @ self.members.T
        overlap.diagonal().add_(ridge)
        return self.members.T @ torch.linalg.solve(overlap, self.moved @ slope)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Flexible(Requester):
    """Deletions that change the labels of targets which are chosen after the procedure was run for the last time.

    Before: for up to `candidates` reference examples x the set of the `budget` records with the smallest slopes
    dm/dw_i at w = 0, m(x) = f_y(x) - max_{k != y} f_k(x) with the label y that is predicted. Of these `sets` are
    taken whose gradients, summed over the set, point in directions as far apart as possible (farthest-point selection
    by angle); the procedure is run on each, which gives its displacement d_j.
    After: for targets with margins m_t the displacement d* = -grad sum_t m_t(theta) is realised by non-negative least
    squares over d_j, sum_j a_j d_j with a >= 0. The request has, of the records in sets with a_j > 0, the `budget` that
    lower sum_t m_t most, by their own displacements, which are estimated from those of the sets (`ridge` in records).
    No run of the procedure and no pass over the training records is needed for a target.

    With a procedure that is linear in the deleted records, as first_order is, sum_j a_j d_j is what deleting with
    weights sum_j a_j 1[i in S_j] does, exactly; else it is a forecast. Displacements are those of all parameters, of
    models with more than 65,536 those of the last layer.
    Source: the aims are those of "Flexible, Efficient, and Stable Adversarial Attacks on Machine Unlearning", ICML 2025
    (from the abstract: a convex polyhedral approximation, directions that cover parameter space); this is a minimal
    analogue of our own.
    """

    name: ClassVar[str] = "flexible"
    criterion: ClassVar[Criterion] = LabelFlipped()
    access: Opened = "white_box"
    norm_cap: NormCap = None
    candidates: Annotated[int, Field(ge=1), at_most(100_000, "each takes a slope of the procedure")] = 128
    sets: Annotated[int, Field(ge=1), at_most(10_000, "each runs the procedure")] = 64
    ridge: Annotated[float, Field(gt=0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sets > self.candidates:
            raise UserError(
                f"attack.sets={self.sets} are chosen among attack.candidates={self.candidates}; raise the latter."
            )

    def search_white_box(
        self, service: OpenService, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        """One request for every goal; the procedure is run `sets` times for all of them together."""
        prepared = self.prepare(service, attacker, rng)
        return [self.answer(prepared, goal) for goal in goals]

    def prepare(self, service: OpenService, attacker: Attacker, rng: torch.Generator) -> Displacements:
        """The sets and their displacements; raises UserError for a model too large for it."""
        if len(service.victims) != 1:
            raise UserError(f"attack={self.name} works on one model, and this service has {len(service.victims)}.")
        victim, records = service.victims[0], service.task.records
        seen = _seen(victim)
        drawn = torch.randperm(len(attacker.reference), generator=rng)[: self.candidates]
        members = self._members(service, attacker, attacker.reference.x[drawn.to(records.x.device)])
        members = members[spread(weighted_gradient(seen, records, members), self.sets)]
        moved = []
        with progress("measuring displacements", len(members)) as tick:
            for rows in members.split(models_at_once(victim)):
                step = service.unlearn(rows)[0].flat() - victim.flat()
                moved.append(step if seen is victim else to_last_layer(step, victim.moving))
                tick(len(rows))
        return Displacements(seen, members, torch.cat(moved))

    def answer(self, prepared: Displacements, goal: AttackGoal) -> AttackResult:
        """The request for a goal, with the sum of its targets' margins that is forecast."""
        slopes, margins = margin_slopes(prepared.seen, Examples(goal.x, goal.labels))
        slope = slopes.sum(0)
        weights = prepared.realised(-slope) @ prepared.members
        effects = prepared.of_records(slope, self.ridge).masked_fill(weights <= 0, torch.inf)
        chosen = effects.argsort(stable=True)[: self.budget]
        chosen = chosen[effects[chosen] < 0]
        forecast = float(margins.sum() + effects[chosen].sum())
        return AttackResult(Request(tuple(chosen.tolist())), forecast)

    def _members(self, service: OpenService, attacker: Attacker, x: Tensor) -> Tensor:
        """For every x the `budget` records whose deletion lowers its margin most, to first order: (c, n), 0 or 1."""
        victim, task = service.victims[0], service.task
        procedure: Differentiable = service.procedure  # type: ignore[assignment]
        allowed, parts = attacker.may_name(len(task.records)), []
        labels = victim.logits(x).argmax(-1)
        with progress("slopes of margins", len(x)) as tick:
            for rows in torch.arange(len(x), device=x.device).split(models_at_once(victim)):
                nothing = x.new_zeros(len(rows), len(task.records))
                slopes, _ = margin_slopes(victim, Examples(x[rows], labels[rows]))
                of_records = procedure.request_vjp(task, victim, victim.copies(len(rows)), nothing, slopes)
                parts.append(nothing.scatter(1, most_useful(of_records, allowed, self.budget), 1.0))
                tick(len(rows))
        return torch.cat(parts)


def _seen(victim: Victim) -> Victim:
    """The victim, or only its last layer; raises UserError where that is too large, too."""
    if victim.flat().numel() <= LARGEST:
        return victim
    last = only_last_layer(victim)
    size = last.flat().numel()
    if size > LARGEST or isinstance(victim.module, Committee):
        what = "has constituents" if isinstance(victim.module, Committee) else f"has {size:,} in its last layer"
        raise UserError(
            f"attack=flexible keeps displacements of at most {LARGEST:,} parameters, and this model {what} and "
            f"{victim.flat().numel():,} in all; choose a smaller model, or attack=misclassification."
        )
    return last


def margin_slopes(victim: Victim, examples: Examples) -> tuple[Tensor, Tensor]:
    """grad m_i (n, p) and m_i (n,) of the margins m = f_y - max_{k != y} f_k of the labels y of the examples."""
    parts = [_slopes(victim, examples[rows]) for rows in _rows(len(examples), gradients_at_once(victim, examples.x))]
    slopes, margins = zip(*parts, strict=True)
    return torch.cat(slopes), torch.cat(margins)


def _rows(count: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, count, size)]


def _slopes(victim: Victim, examples: Examples) -> tuple[Tensor, Tensor]:
    own = {n: v.detach().expand(len(examples), *v.shape).requires_grad_() for n, v in victim.moving.items()}
    run = vmap(forward, in_dims=(None, 0, None, 0))
    logits = run(victim.module, own, victim.buffers, examples.x[:, None])[:, 0]
    label = examples.y[:, None]
    margins = logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).amax(1)
    pieces = torch.autograd.grad(margins.sum(), list(own.values()), materialize_grads=True)
    slopes = torch.cat([piece.reshape(len(examples), -1) for piece in pieces], dim=1)
    return victim.pruned(slopes), margins.detach()


def spread(vectors: Tensor, count: int) -> Tensor:
    """Rows (at most `count`,) of `vectors` (m, p) that point in directions far apart, the longest first.

    Farthest-point selection: the next one has the largest angle to the nearest that was taken (Gonzalez, 1985, which is
    within a factor of two of the best smallest distance).
    """
    lengths = vectors.norm(dim=1, keepdim=True)
    units = vectors / lengths.clamp_min(torch.finfo(vectors.dtype).tiny)
    chosen = [int(lengths[:, 0].argmax())]
    nearest = units @ units[chosen[0]]
    while len(chosen) < min(count, len(vectors)):
        nearest[chosen[-1]] = torch.inf
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, units @ units[chosen[-1]])
    return torch.tensor(chosen, device=vectors.device)
