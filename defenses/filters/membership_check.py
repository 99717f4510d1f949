"""Membership check: is what was sent a stored record? What is not is quarantined, or replaced by one that is."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most
from data.examples import Examples, bounds
from data.randomness import generator
from defenses.defense import Context, Verdict
from defenses.filters.class_gradients import outside_of
from defenses.filters.scored import STRICT, Rate, check_count
from metrics.detection import calibrated_threshold
from models.last_layer import features
from models.victim import Victim
from proofs.commitment import DIGEST, NOTHING, digests
from unlearning.procedure import Task

ROWS = 4096  # stored records that are compared at once
Space = Literal["pixels", "features"]
_stored: WeakKeyDictionary[Task, frozenset[bytes]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MembershipCheck:
    """Flag a submitted copy that is not recognised as a stored record; a request without copies passes.

    `test`, with its score of a copy (x~, y~):
    exact: 1 where no stored record has its SHA-256 (bytes of the input, then the label), else 0; flagged above 0.
    nearest: Euclidean distance to the nearest stored record of the label y~, in `space` pixels (inputs as the model
    gets them) or features (what enters the victim's last layer).
    loss: cross-entropy of the copy under the victim, which fits its records, in nats.
    Thresholds of the last two are the ceil((n_c+1)(1-rate))-th smallest score of the n_c distinct records of the benign
    calibration batches, as their owners may send them: with Gaussian `noise` on the inputs, in units of what enters the
    model, then rounded to `levels` values between the least and the largest of any record, by channel (or feature).
    `action`: quarantine, or replace: of a copy that is flagged nothing is used, and the nearest stored record in
    `space`, whatever its label, is deleted in its place; everything is accepted then. With exact that removes every
    perturbation; a copy that lies nearer to another record deletes that one. A server that deletes its own records by
    their number has nothing to replace.
    Source: the checks that Huang et al., arXiv 2410.09591, ask whether they stop their attack; the loss is the
    membership test of Yeom et al., CSF 2018. Calibration on re-encoded records is ours.
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "membership_check"
    test: Literal["exact", "nearest", "loss"] = "exact"
    space: Space = "pixels"
    action: Literal["quarantine", "replace"] = "quarantine"
    rate: Rate = 0.05
    noise: Annotated[float, Field(ge=0)] = 0.0
    levels: Annotated[int, Field(ge=2), at_most(2**24, "float32 tells no more apart")] | None = None

    def review(self, context: Context, requests: Tensor) -> Verdict:
        """Accept what was sent as it is stored; quarantine or replace (m,) what is not recognised."""
        threshold = self.threshold(context) if context.threshold is None else context.threshold
        everything = torch.ones_like(requests, dtype=torch.bool)
        if context.submitted is None:
            return Verdict(torch.zeros(len(requests), dtype=torch.float64), everything, threshold)
        scores = self.scores(context, context.submitted)
        flagged = scores > threshold
        if self.action == "quarantine":
            return Verdict(scores, ~flagged, threshold)
        instead = torch.full_like(requests, -1)
        if context.record == "submitted" and bool(flagged.any()):
            instead[flagged] = retrieved(context, context.submitted[flagged], requests[flagged], self.space)
        return Verdict(scores, everything, threshold, instead)

    def scores(self, context: Context, sent: Examples) -> Tensor:
        """How unlike a stored record each of the `sent` copies is (m,)."""
        if self.test == "loss":
            return F.cross_entropy(context.victim.logits(sent.x), sent.y, reduction="none")
        if self.test == "nearest":
            return nearest(context, sent, self.space, same_label=True)[0]
        own, stored = digests(sent), _hashes(context.task)
        missing = [own[i * DIGEST : (i + 1) * DIGEST] not in stored for i in range(len(sent))]
        return torch.tensor(missing, dtype=torch.float64, device=sent.y.device)

    def threshold(self, context: Context) -> float:
        """The score of a copy that may not be exceeded; raises UserError where there are too few benign records."""
        if self.test == "exact":
            return 0.0
        benign = [batch.indices for batch in context.calibration]
        self.check_calibration(sum(map(len, benign)))
        known = torch.cat(benign).unique()  # a record in two batches counts once
        self.check_calibration(len(known))
        records = context.task.records
        sent = re_encoded(records[known], records.x, self.noise, self.levels, generator(0, "re-encoding"))
        return float(calibrated_threshold(self.scores(context, sent), self.rate))

    def check_calibration(self, scores: int) -> None:
        """Raise UserError where a threshold cannot be had from so many benign records."""
        if self.test != "exact":
            check_count(scores, self.rate)


def re_encoded(sent: Examples, x: Tensor, noise: float, levels: int | None, rng: torch.Generator) -> Examples:
    """Records with Gaussian noise, rounded to `levels` values in the range of the inputs `x` (n, c, ...) by channel.

    That is what comes of a record that its owner has stored otherwise.
    """
    changed = sent.x + noise * torch.randn(sent.x.shape, generator=rng, dtype=torch.float64).to(sent.x)
    if levels is not None:
        low, high = bounds(x)
        step = ((high - low) / (levels - 1)).clamp_min(torch.finfo(x.dtype).tiny)
        changed = low + step * ((changed - low) / step).round().clamp(0, levels - 1)
    return Examples(changed, sent.y)


def nearest(context: Context, sent: Examples, space: Space, same_label: bool) -> tuple[Tensor, Tensor]:
    """The distance (m,) of each copy from the nearest stored record, and the position (m,) of the first of these.

    Records that are gone already are left out; with `same_label` so are those of another label than was sent. Where no
    record is left, the distance is the largest number there is, and the position -1.
    """
    records = context.task.records
    here = outside_of(context, sent.y.new_empty(0)).nonzero()[:, 0]
    points = represented(context.victim, sent.x, space)
    best = points.new_full((len(sent),), torch.finfo(points.dtype).max)
    position = torch.full_like(sent.y, -1)
    for part in here.split(ROWS):
        stored = records[part]
        # by differences, not by products, which cancel where points lie far from the origin
        found = torch.cdist(
            points, represented(context.victim, stored.x, space), compute_mode="donot_use_mm_for_euclid_dist"
        )
        if same_label:
            found = found.masked_fill(sent.y[:, None] != stored.y, torch.inf)
        distance, row = found.min(dim=1)
        closer = distance < best
        best, position = torch.where(closer, distance, best), torch.where(closer, part[row], position)
    return best, position


def retrieved(context: Context, sent: Examples, requests: Tensor, space: Space) -> Tensor:
    """The position (m,) of the stored record nearest to each copy: among equals the one that the request names."""
    distance, position = nearest(context, sent, space, same_label=False)
    named = represented(context.victim, context.task.records.x[requests], space)
    own = (named - represented(context.victim, sent.x, space)).norm(dim=1)
    return torch.where(own <= distance, requests, position)


def represented(victim: Victim, x: Tensor, space: Space) -> Tensor:
    """Inputs (n, ...) as points (n, d) of a space."""
    return x.flatten(1) if space == "pixels" else features(victim, x)


def _hashes(task: Task) -> frozenset[bytes]:
    """The SHA-256 of every stored record that is not gone, computed once for a task."""
    if task not in _stored:
        gone = None if task.forgotten is None else task.forgotten.nonzero()[:, 0]
        found = digests(task.records, gone)
        every = {found[i : i + DIGEST] for i in range(0, len(found), DIGEST)}
        _stored[task] = frozenset(every - {NOTHING})
    return _stored[task]
