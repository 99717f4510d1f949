"""Requests that come in stages, with the deletions of others in between: what is carried out, and what came of it.

Stage t = 0..T-1 takes the provider from theta_t to theta_{t+1} = U(theta_t; S_t and xi_t): S_t are the records that
the attacker names, xi_t those of others, and one call of the procedure carries out both. A record that two ask for is
deleted once, when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from attacks.crafting.functionals import averaged, margins
from attacks.crafting.objective import CandidatePredictions, Objective
from attacks.crafting.white_box import WhiteBoxObjective
from models.passes import models_at_once
from models.progress import progress
from models.victim import ModelStack, stack
from unlearning.service import OpenService
from unlearning.turns import carried_on, deleted_of


def stage_sizes(budget: int, stages: int, per_stage: int | None) -> list[int]:
    """How many records each stage may name: `per_stage` (null: as many as spread the budget) while the budget lasts."""
    most = -(-budget // stages) if per_stage is None else per_stage
    return [max(0, min(most, budget - most * t)) for t in range(stages)]


def of_others(available: Tensor, stages: int, benign: int, rng: torch.Generator) -> Tensor:
    """Positions (stages, benign) that others ask for: distinct ones of `available` (a,), whatever the attacker does."""
    drawn = torch.randperm(len(available), generator=rng)[: stages * benign]
    return available[drawn.to(available.device)].reshape(stages, benign)


@dataclass(frozen=True, eq=False)
class State:
    """The provider as it is at some stage, once for every goal of `white_box`, whose service is that of stage 0."""

    white_box: WhiteBoxObjective
    providers: tuple[OpenService, ...]

    @classmethod
    def first(cls, white_box: WhiteBoxObjective) -> State:
        """Stage 0."""
        return cls(white_box, (white_box.service,) * len(white_box.labels))

    def gone(self) -> Tensor:
        """What is deleted already, 0/1 weights (G, n)."""
        return deleted_of(self.white_box.service, self.providers)

    def models(self) -> list[ModelStack]:
        """The models of all goals, one stack of G for every victim."""
        count = len(self.white_box.service.victims)
        return [stack([each.victims[k] for each in self.providers]) for k in range(count)]

    def predictions(self) -> CandidatePredictions:
        """What is predicted for every goal at this stage."""
        return self.white_box.predicted(
            self.models(), torch.arange(len(self.providers), device=self.white_box.x.device)
        )

    def after(self, asked: Sequence[Tensor]) -> State:
        """The state after everything in `asked`, positions by goal, but what is gone already was deleted in one call.

        See `unlearning.turns.carried_on`.
        """
        return State(self.white_box, tuple(carried_on(self.white_box.service, self.providers, asked)))

    def costs(self, objective: Objective, rows: Tensor, owner: Tensor) -> Tensor:
        """What is lost (m,) where rows (m, n) of records that are left are deleted next for the goals `owner` (m,)."""
        root, values = self.white_box.service, rows.new_zeros(len(rows))
        if root.procedure.exact and len(rows):
            return objective.loss(self.white_box.after(self.gone()[owner] + rows, owner))
        for goal in owner.unique().tolist():
            for mine in (owner == goal).nonzero()[:, 0].split(models_at_once(root.victims[0])):
                models = self.providers[goal].unlearn(rows[mine])
                values[mine] = objective.loss(self.white_box.predicted(models, owner[mine]))
        return values

    def slopes(self, objective: Objective) -> Tensor:
        """dL/dw (G, n) at w = 0 in what is deleted next, at the models of this stage."""
        if self.white_box.service.procedure.exact:
            waiting = iter(self.providers)

            def models(rows: Tensor) -> list[ModelStack]:  # they are asked for in their order
                return State(self.white_box, tuple(islice(waiting, len(rows)))).models()

            return self.white_box.slopes(self.gone(), objective, models)
        found = []
        for goal, provider in enumerate(self.providers):
            models_now = [victim.copies(1) for victim in provider.victims]
            owner = torch.tensor([goal], device=self.white_box.x.device)
            cotangents = self.white_box.pulled(models_now, owner, objective)[1]
            nothing = provider.task.records.x.new_zeros(1, len(provider.task.records))
            found.append(self.white_box.request_slopes(models_now, nothing, cotangents, service=provider))
        return torch.cat(found)


Policy = Callable[[State, int], Sequence[Tensor]]  # (state, stage) -> positions that the attacker names, by goal


@dataclass(frozen=True, eq=False)
class Course:
    """What became of one goal: `named` by the attacker, by stage, and by models 0..T what the model was like.

    `margins` (T+1, targets) of the labels predicted at first, in logits; `accuracy` (T+1,) on the attacker's reference
    examples; `losses` (T+1,), the objective.
    """

    named: tuple[tuple[int, ...], ...]
    others: Tensor
    margins: Tensor
    accuracy: Tensor
    losses: Tensor

    @property
    def records(self) -> tuple[int, ...]:
        """All that the attacker named, in its order."""
        return tuple(record for stage in self.named for record in stage)


def carried_out(
    white_box: WhiteBoxObjective, objective: Objective, others: Sequence[Tensor], policy: Policy
) -> list[Course]:
    """Play all stages for every goal; `others` are by goal the positions (T, benign) that others ask for.

    What the policy names and is gone already is left out of the request, since the provider would refuse it.
    """
    state, stages = State.first(white_box), len(others[0])
    named: list[list[tuple[int, ...]]] = [[] for _ in others]
    seen = [_seen(state, objective)]
    with progress("stages", stages) as tick:
        for stage in range(stages):
            gone, chosen = state.gone() > 0, policy(state, stage)
            mine = [each[~gone[goal][each]] for goal, each in enumerate(chosen)]
            for goal, positions in enumerate(mine):
                named[goal].append(tuple(positions.tolist()))
            state = state.after([torch.cat([each, others[i][stage]]) for i, each in enumerate(mine)])
            seen.append(_seen(state, objective))
            tick()
    margin, right, loss = (torch.stack(each, dim=1) for each in zip(*seen, strict=True))
    return [Course(tuple(each), others[i], margin[i], right[i], loss[i]) for i, each in enumerate(named)]


def _seen(state: State, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    now = state.predictions()
    right = averaged(now.reference).argmax(-1) == now.reference_truth
    return margins(averaged(now.log_p), now.labels), right.double().mean(-1), objective.loss(now)
