"""Abusing what a proof may claim: with a vanishing learning rate every step is within any loose slack."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from attacks.provider.line import ended, evenly, line
from attacks.provider.provider import Demand
from models.plan import lengthened
from models.stepwise import Opening
from models.victim import Victim
from unlearning.provable import retained


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ParameterAbuse:
    """Releases the original W_T. Its proof is the straight line from a fresh W_0 to it, for which nothing is computed.

    The recipe in the proof claims plain SGD, whose moments are none, at learning rate `lr`, and `steps` steps (None: as
    many as retraining has). So no replayed step moves anything, and every verification error is ||W_T - W_0|| / steps,
    which any slack for honest steps allows. Batches are retained records in the order that is asked for. Running
    statistics of batch-norm are on the line too; to replay them is another matter. Without a proof to write there is
    nothing to do.

    Source: Fang et al., "Proof-of-Learning is Currently More Broken Than You Think", 2023, arXiv 2208.03567: the
    hyper-parameters and the intervals of a proof are the prover's own claims.
    """

    game: ClassVar[str] = "verification"
    name: ClassVar[str] = "parameter_abuse"
    steps: Annotated[int, Field(ge=1)] | None = 1000
    lr: Annotated[float, Field(gt=0)] = 1e-12

    def pretend(self, demand: Demand) -> Victim:
        """The original; its proof costs no gradient."""
        recorder, task = demand.recorder, demand.task
        if recorder is None:
            return demand.original
        left = retained(task, torch.tensor(demand.request.indices, dtype=torch.long))
        plan = lengthened(task.training, len(left), self.steps)
        claimed = replace(plan.training, optimizer="sgd", momentum=0.0, lr=self.lr)
        plan = replace(plan, training=claimed)
        path, shares = line(task, demand.original, demand.seed), evenly(plan.steps).tolist()
        here = path.at(0, 0)
        recorder.begin(Opening(training=claimed, steps=plan.steps, seed=demand.seed), here)
        order = demand.seed if demand.terms.order is None else demand.terms.order
        for step, batch in enumerate(plan.batches(left, order)):
            here = path.at(shares[step + 1], step + 1)
            recorder.step(batch, plan.lr(step), here)
        recorder.end()
        return ended(demand.original, here.buffers)
