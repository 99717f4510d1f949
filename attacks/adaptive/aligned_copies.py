"""Aligned copies: what is sent in place of a record has a gradient like that of its class, where filters look at it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import vmap

from attacks.adaptive.strategy import STRICT, Adaptive, Crafting, knowledge_of
from attacks.crafting.attack import Attacker, AttackResult
from attacks.crafting.copies import Around, Copies, Norm
from data.bounds import at_most
from data.examples import Examples
from models.gradients import graphs_at_once, weighted_gradient
from models.progress import progress
from models.victim import Victim, forward
from unlearning.procedure import Request


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AlignedCopies(Adaptive):
    """Copies x~_i, at most `radius` from the record x_i in `norm`, with a large cos(g(x~_i), mean gradient of y_i).

    The records are those of the attack's search, and labels stay. `steps` of descent on 1 - cos, of `step` radii each,
    within the values that the attacker's records take; of every record the most aligned copy so far is kept. At `looks`
    points of the way, evenly, and for the records themselves, the request is tried against the filter, and that counts
    whose trial attained most, the last among equals: where the server computes with the copies, being like the class
    costs effect. A server that deletes its own records looks at no copy; one that computes with stored records and
    filters what was sent, as with retraining, does what the attack wants. A membership check sees every copy.
    Aimed at similarity to the class (S6, `similarity`), which takes no notice of how far a copy is from its record.
    Our strategy.
    """

    name: ClassVar[str] = "aligned_copies"
    opens: ClassVar[bool] = True
    needs_filter: ClassVar[bool] = True
    rehearses: ClassVar[bool] = True
    sends_copies: ClassVar[bool] = True
    norm: Norm = "linf"
    radius: Annotated[float, Field(gt=0)] = 0.5
    steps: Annotated[int, Field(ge=1), at_most(100_000, "each differentiates the model twice")] = 40
    step: Annotated[float, Field(gt=0, le=2)] = 0.1
    looks: Annotated[int, Field(ge=1), at_most(1000, "each is a trial")] = 3

    def craft(self, crafting: Crafting, attacker: Attacker) -> list[AttackResult]:
        """The request of every goal with the copies that serve best in its trial."""
        results, knowledge = crafting.search(attacker), knowledge_of(attacker, self.name)
        victim, records = crafting.opened.victims[0], crafting.opened.task.records
        means = class_means(victim, records)
        ways = [self._way(victim, records, means, attacker, each.request) for each in results]
        best = list(
            zip(results, knowledge.trials([each.request for each in results], range(len(results))), strict=True)
        )
        with progress("aligning copies", self.looks) as tick:
            for look in range(self.looks):
                sent = [replace(each, request=way[look]) for each, way in zip(results, ways, strict=True)]
                tried = knowledge.trials([each.request for each in sent], range(len(sent)))
                pairs = zip(best, zip(sent, tried, strict=True), strict=True)
                best = [new if new[1].worth >= old[1].worth else old for old, new in pairs]
                tick()
        return [result for result, _ in best]

    def applicable(self, crafting: Crafting, attacker: Attacker) -> bool:
        """Where the server looks at what is sent."""
        return crafting.opened.record == "submitted"

    def _way(
        self, victim: Victim, records: Examples, means: Tensor, attacker: Attacker, request: Request
    ) -> list[Request]:
        """The request with copies after every look's share of the steps."""
        if not request.indices:
            return [request] * self.looks
        stored = records[torch.tensor(request.indices, device=records.y.device)]
        around = Around.of(Copies(norm=self.norm, radius=self.radius), stored.x, attacker)
        x, best, least = stored.x, stored.x, torch.full_like(stored.x.flatten(1)[:, 0], torch.inf)
        ends, found = [self.steps * (i + 1) // self.looks for i in range(self.looks)], []
        for step in range(self.steps + 1):
            values, slopes = dissimilarity(victim, Examples(x, stored.y), means)
            better = values < least
            best = torch.where(better.reshape(-1, *[1] * (x.dim() - 1)), x, best)
            least = torch.minimum(values, least)
            found += [Request(request.indices, Examples(best, stored.y))] * ends.count(step)
            x = around.moved(x, slopes, self.step)
        return found


def class_means(victim: Victim, records: Examples) -> Tensor:
    """The mean gradient (K, p) of the stored records of every class; zeros where a class has none."""
    labels = torch.arange(int(records.y.max()) + 1, device=records.y.device)
    rows = torch.stack([(records.y == label).to(records.x.dtype) for label in labels])
    return weighted_gradient(victim, records, rows / rows.sum(1, keepdim=True).clamp_min(1))


def dissimilarity(victim: Victim, examples: Examples, means: Tensor) -> tuple[Tensor, Tensor]:
    """1 - cos(g(x_i), mean of class y_i) (k,), and its slope in x_i (k, *shape); `means` is (K, p)."""
    size, parts = graphs_at_once(victim, examples.x), []
    for first in range(0, len(examples), size):
        part = examples[slice(first, first + size)]
        x = part.x.detach().clone().requires_grad_()
        own = {n: v.detach().expand(len(part), *v.shape).requires_grad_() for n, v in victim.moving.items()}
        logits = vmap(forward, in_dims=(None, 0, None, 0))(victim.module, own, victim.buffers, x[:, None])[:, 0]
        total = F.cross_entropy(logits, part.y, reduction="sum")
        pieces = torch.autograd.grad(total, list(own.values()), create_graph=True, materialize_grads=True)
        gradients = victim.pruned(torch.cat([piece.reshape(len(part), -1) for piece in pieces], dim=1))
        values = 1 - F.cosine_similarity(gradients, means[part.y], dim=1)
        parts.append((values.detach(), torch.autograd.grad(values.sum(), x)[0]))
    return torch.cat([values for values, _ in parts]), torch.cat([slopes for _, slopes in parts])
