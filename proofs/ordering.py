"""Whether an order of records is one of chance: an audit of orders that the provider drew itself. Ours.

Choosing where in an epoch a record stands is choosing what a model learns last, and a replay accepts it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.stepwise import State
from models.victim import Victim, unflatten
from proofs.auditing import NO_BATCH, Audit
from proofs.problems import Expected
from proofs.reader import Proof, Step
from proofs.states import ALPHA, drawn

ROWS = 4096  # records whose losses are computed at once


def midranks(values: Tensor) -> Tensor:
    """The ranks 1 to n of values (n,), in float64; equal values share the mean of theirs, and NaN is infinite."""
    _, which, counts = values.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).unique(
        return_inverse=True, return_counts=True
    )
    return (counts.cumsum(0).double() - (counts.double() - 1) / 2)[which]


def standardised(places: Tensor, values: Tensor) -> Tensor:
    """z of S = sum_i (a_i - mean a) (b_i - mean b), for places a (..., n) and values b (..., n), either with ties.

    Where every order of the places is as likely, S has the mean 0 and the variance sum_i (a_i - mean a)^2 sum_i (b_i -
    mean b)^2 / (n - 1), exactly; z = S / sqrt(variance), or NaN where that is 0. For ranks without ties z is Spearman's
    rank correlation times sqrt(n - 1).
    """
    a, b = (each.double() - each.double().mean(-1, keepdim=True) for each in (places, values))
    spread = a.square().sum(-1) * b.square().sum(-1)
    return (a * b).sum(-1) * math.sqrt(max(0, places.shape[-1] - 1)) / spread.sqrt()


def combined(scores: Sequence[float]) -> tuple[float, float]:
    """Z = sum_e z_e / sqrt(E), and its two-sided p-value as of a standard normal."""
    z = math.fsum(scores) / math.sqrt(len(scores))
    return z, math.erfc(abs(z) / math.sqrt(2))


class RandomOrder(Audit):
    """Where a record stands in an epoch has nothing to do with how well the model knew it when the epoch began.

    Of an epoch let w be the last logged state at or before its start, b_i the rank of the loss at w of its record i,
    and a_i the number of the batch that i is in. An honest provider draws the order uniformly, whatever w is, so that,
    given which records are in the epoch, z_e (`standardised`) has the mean 0 and the variance 1 exactly. So has Z =
    sum_e z_e / sqrt(E) over the E whole epochs, since the orders are drawn one by one. Rejected where the two-sided
    p-value of Z is below 0.01: easy records first and hard records first are both chosen.

    A provider that looks for retained records whose gradients resemble those of deleted ones (Zhang et al., ICML 2024)
    takes easy ones first, and leaves the hard ones to the end of every epoch. What is chosen without regard to losses,
    or one way in one epoch and the other way in the next, is not seen. Records that an epoch repeats count as often as
    they occur; then Z need not be as said, which accuses nobody who is not accused of `multiplicity`. Few checkpoints
    make it weak and not wrong: w is then older. Not looked at where the verifier chose the order, which `order` checks.

    Losses are of predictions (eval mode), once for each retained record and epoch; no gradient is made.
    `random_order_z` is Z, `random_order_p` its p-value; `scores` has (z_e, first step of the epoch).
    """

    name = "random_order"
    states = True

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        self.scores: list[tuple[float, int]] = []
        self._batches: list[Tensor] = []  # of this epoch
        self._last: State | None = None
        self._losses: Tensor | None = None
        if expected.order is None and self.plan is None:
            self.report(None, "recipe.batch_size", NO_BATCH)

    def step(self, step: Step) -> None:
        if self.plan is None or self.expected.order is not None:
            return
        if step.state is not None:
            self._last = step.state
        if step.number:
            self._batches.append(step.batch)
        if step.number % self.plan.per_epoch:
            return
        if self._losses is not None:
            z = self._score(self._losses)
            if math.isfinite(z):
                self.scores.append((z, step.number - self.plan.per_epoch + 1))
        another = self.proof.steps - step.number >= self.plan.per_epoch
        self._batches, self._losses = [], self._measured() if another else None

    def end(self) -> None:
        if not self.scores:
            return
        z, p = combined([score for score, _ in self.scores])
        self.numbers |= {"random_order_z": z, "random_order_p": p}
        if not p >= ALPHA:
            _, first = max(self.scores, key=lambda each: abs(each[0]))
            self.report(
                first, "order", f"Records stand in no order of chance: {'easy' if z > 0 else 'hard'} ones come first "
                f"(Z = {z:.3g} over {len(self.scores):,} epochs, p = {p:.2g}), most so in the epoch of step {first}."
            )  # fmt: skip

    def _score(self, losses: Tensor) -> float:
        """z of the epoch that was read; records that may not be in it are left out, which others say."""
        rows = torch.cat(self._batches)
        sizes = torch.tensor([len(batch) for batch in self._batches])
        places = torch.arange(len(sizes)).repeat_interleave(sizes)
        inside = rows.clamp(0, len(losses) - 1)
        known = (inside == rows) & self.expected.kept[inside]
        return float(standardised(places[known], midranks(losses[rows[known]])))

    def _measured(self) -> Tensor:
        """The losses (n,) of the retained records at the last logged state; of all others 0."""
        assert self._last is not None  # the first state is always logged
        records, like = self.expected.records, drawn(self.proof, self.expected)
        device = records.x.device
        weights = unflatten(self._last.weights.to(device), like.moving)
        moved = {name: value.to(device) for name, value in self._last.buffers.items()}
        victim = Victim(like.module, weights, {**like.buffers, **moved})
        found = torch.zeros(len(records), dtype=torch.float64)
        for rows in self.expected.retained.split(ROWS):
            at = rows.to(device)
            x, y = records.x.index_select(0, at), records.y.index_select(0, at)
            found[rows] = F.cross_entropy(victim.logits(x), y, reduction="none").double().cpu()
        return found
