"""Healing: every request is carried out, and spare records like the deleted ones are learned in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most
from data.examples import Examples
from defenses.defense import Context, Verdict, accept_everything
from defenses.filters.membership_check import Space, represented
from defenses.filters.scored import STRICT
from models.victim import Victim
from unlearning.fine_tune import FineTune
from unlearning.procedure import Procedure, Task, learned, unlearned


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Healing:
    """Repairs instead of filtering: the model is to be one of (D without Z) with h(Z) put in for the request Z.

    h(i) is the nearest (Euclidean, in `space` pixels, inputs as the model gets them, or features, what enters the
    victim's last layer) spare of the class of i that no earlier record of the request has taken; a record whose class
    has no spare left is deleted without. `similar: random` takes a random spare of the class: a control.
    The spares are `reserve` training records that the provider holds back before it trains (`Repairs`).

    Exact procedures learn the repaired training set, with the rows Z replaced by h(Z) and the seed as it was, so that
    models differ by these rows alone; others unlearn Z first, and what comes of that is fine-tuned on the repaired set
    as `unlearning=fine_tune` does, `epochs` at `lr`. Either way no deleted record is learned, but which spares are
    depends on the deleted ones; and spares become training records, whose owners may ask for deletion themselves.
    Source: after "healing" of models under adversarial deletion (spares in the place of removed elements, then
    fine-tuning), which is published without its similarity, reserve and schedule; these are ours.
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "healing"
    accepts_everything: ClassVar[bool] = True
    reserve: Annotated[int, Field(ge=1), at_most(10**9, "each is a training record")] = 100
    similar: Literal["nearest", "random"] = "nearest"
    space: Space = "pixels"
    epochs: Annotated[int, Field(ge=1), at_most(1_000_000, "each is a pass over the records")] = 5
    lr: Annotated[float, Field(gt=0)] = 0.05

    def review(self, context: Context, requests: Tensor) -> Verdict:
        """Accept every record (m,), with a suspicion of 0."""
        return accept_everything(requests)

    def stand_ins(self, task: Task, victim: Victim, deleted: Tensor, spares: Examples, rng: torch.Generator) -> Tensor:
        """h (m,) as rows of `spares`, -1 for none, greedily in the order of `deleted` (m,); m x r numbers are held."""
        records = task.records[deleted]
        if self.similar == "random":
            cost = torch.rand(len(records), len(spares), generator=rng, dtype=torch.float64)
        else:
            first, other = (represented(victim, each.x, self.space) for each in (records, spares))
            cost = torch.cdist(first, other, compute_mode="donot_use_mm_for_euclid_dist").cpu()
        cost = cost.masked_fill((records.y[:, None] != spares.y).cpu(), torch.inf)
        found = torch.full((len(records),), -1, dtype=torch.long)
        for k, row in enumerate(cost):  # one after the other: each takes a spare from those that follow
            least, spare = row.min(dim=0)
            if bool(least < torch.inf):
                found[k] = spare
                cost[:, spare] = torch.inf
        return found.to(deleted.device)

    def repair(self, procedure: Procedure, repaired: Task, forgotten: Callable[[], Victim], seed: int) -> Victim:
        """What an exact procedure learns from the repaired records, or what fine-tuning on them makes of the model."""
        if procedure.exact:
            return replace(learned(procedure, repaired, seed), history={})  # checkpoints of learning are not kept
        nothing = repaired.records.x.new_zeros(1, len(repaired.records))
        tune = FineTune(epochs=self.epochs, lr=self.lr)
        return unlearned(tune, repaired, forgotten(), nothing, seed)[0]
