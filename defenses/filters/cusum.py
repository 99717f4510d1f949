"""Cumulative sums: what requests do to trusted examples, added up over the batches of a sequence."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from math import ceil
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most
from data.errors import UserError
from data.examples import Examples
from defenses.defense import Context, Verdict
from defenses.filters.effects import Preconditioner, predicted
from defenses.filters.influence import Influence
from defenses.filters.scored import STRICT, Rate
from defenses.filters.trusted_points import NUMBERS, batch_effects, once, random_sets, record_effects, stored
from metrics.conformal import rank
from metrics.cusum import cusum
from metrics.detection import calibrated_threshold
from models.solver import Solver


@plain_dataclass(frozen=True, eq=False)
class Sums:
    """What is remembered of a sequence: the sums S+ and S- (t,) of what was accepted, the `labels` (t,) whose margins
    are looked at, those that the first victim predicted, the threshold of the first batch, and how many there were.
    """

    up: Tensor
    down: Tensor
    labels: Tensor
    threshold: float
    batches: int = 0

    def after(self, standardised: Tensor, drift: float) -> Sums:
        """The path with one batch (t,) more: the recursion of `metrics.cusum.cusum`."""
        up, down = (self.up + standardised - drift).clamp_min(0), (self.down - standardised - drift).clamp_min(0)
        return Sums(up, down, self.labels, self.threshold, self.batches + 1)

    @property
    def value(self) -> float:
        """The larger sum of the point where it is largest."""
        return float(torch.maximum(self.up, self.down).max())


@plain_dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation (t,) of a_i(m_j) over the `count` records that are stored (denominator n - 1)."""

    mean: Tensor
    deviation: Tensor
    count: int

    def standardised(self, effects: Tensor, size: int) -> Tensor:
        """(A_j - E A_j) / sd_j of the effects (t,) of a batch of `size` records; 0 for points that nothing moves."""
        deviation = (size * (1 - size / self.count)) ** 0.5 * self.deviation
        moves = deviation > 0
        return torch.where(moves, (effects - size * self.mean) / torch.where(moves, deviation, 1), 0)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cusum:
    """Flag a batch where the cumulative sums of a sequence leave their bounds; quarantine the `share` ranked highest.

    Batch b of a sequence has z_j = (A_j - E A_j) / sd_j at each of at most `points` trusted examples j, as in
    `defenses.filters.set_level`, at the model as it then is and with the moments of the records that are then left.
    S+_b = max(0, S+_{b-1} + z - drift), S-_b = max(0, S-_{b-1} - z - drift), and the statistic is the largest of all
    (`metrics.cusum`). What is quarantined moves nothing, so that the path goes on with what was accepted. With one path
    for all requests, splitting them over accounts and batches does not help; a provider that knows who asks may keep a
    path for each, of that account's requests alone.
    The threshold is the ceil((s+1)(1-rate))-th smallest largest value of the paths of s = `sequences` simulated
    sequences of `length` random batches, disjoint, of the size of the first batch: a sequence of at most so many random
    batches is flagged anywhere with a probability of at most `rate`, as far as effects at the first victim are those at
    later ones. It holds for the whole sequence; a batch alone has to be more conspicuous than with set_level.
    The batch is ranked by S1 (`defenses.filters.influence`); the score of a request is the statistic if it is among the
    highest ranked, else 0. Costs one solve for each trusted example and every model of a sequence.
    Source: Page, Biometrika 41, 1954 (the sums); as a test of deletion requests it is our formulation.
    """

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "cusum"
    rate: Rate = 0.05
    drift: Annotated[float, Field(ge=0)] = 0.5
    length: Annotated[int, Field(ge=1), at_most(10_000, "each is a batch of every simulated sequence")] = 5
    sequences: Annotated[int, Field(ge=1), at_most(1_000_000, "each is a sequence that is drawn")] = 2000
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    points: Annotated[int, Field(ge=1), at_most(1_000_000, "each is a solve of its own")] = 500
    preconditioner: Preconditioner = "inverse_curvature"
    solver: Solver = Field(default_factory=lambda: Solver(method="auto"))

    def __post_init__(self) -> None:
        if rank(self.sequences, self.rate) > self.sequences:
            raise UserError(
                f"sequences={self.sequences} simulated sequences are too few for rate={self.rate:g}; raise sequences."
            )

    def check_sequence(self, batches: int, size: int, records: int) -> None:
        """Raise UserError where sequences of `batches` batches are longer than the threshold holds for, or n is few."""
        if batches > self.length:
            raise UserError(
                f"A request comes in {batches} batches, and defense.length={self.length} is how many the threshold of "
                "defense=cusum holds for; raise defense.length."
            )
        if self.length * size > records:
            raise UserError(
                f"defense.length={self.length} random batches of {size} records are more than the {records} training "
                "records; lower defense.length, attack.budget or game.stream.benign_per_malicious."
            )

    def review(self, context: Context, requests: Tensor) -> Verdict:
        """Accept the batch (m,), or quarantine the highest ranked ceil(share m) of it."""
        path = context.remembered if isinstance(context.remembered, Sums) else self._start(context, len(requests))
        requested = context.unlearned(requests)
        after = path.after(self.standardised(context, requested, path.labels), self.drift)
        ranked = Influence(score="S1").scores(context, requests)
        scores = torch.zeros(len(ranked), dtype=torch.float64, device=ranked.device)
        scores[ranked.topk(ceil(self.share * len(ranked))).indices] = after.value
        accepted = ~(scores > path.threshold)
        if not bool(accepted.all()):
            left = requested[accepted]
            after = path.after(self.standardised(context, left, path.labels), self.drift) if len(left) else path
        return Verdict(scores, accepted, path.threshold, remembered=after)

    def standardised(self, context: Context, requested: Examples, labels: Tensor) -> Tensor:
        """z (t,) of a batch of requested records (m) at every trusted example, of the margins of `labels` (t,)."""
        points, solved = self._points(context), (self.preconditioner, self.solver)
        effects = batch_effects(context, points, labels, requested, *solved)
        return self._moments(context, labels).standardised(effects.double(), len(requested))

    def of_random(self, context: Context, size: int) -> Tensor:
        """The largest values (sequences,) of simulated paths, computed once for a victim."""
        points, solved = self._points(context), (self.preconditioner, self.solver)
        labels, of = predicted(context.victim, points), (size, self.length, self.sequences, self.drift)

        def simulated() -> Tensor:
            most = torch.zeros(self.sequences, dtype=torch.float64, device=labels.device)
            for _, effects in record_effects(context, points, labels, *solved):
                every = size * self.length
                for rows, drawn in random_sets(*_drawn(effects, every, self.sequences)):
                    batches = drawn.reshape(len(drawn), self.length, size).to(effects.device)
                    paths = cusum(standardised_in_turn(effects, batches), self.drift)
                    most[rows] = torch.maximum(most[rows], paths.amax((0, 2)))
            return most

        return once(context, points, ("cusum", *of, *solved), simulated)

    def _start(self, context: Context, size: int) -> Sums:
        self.check_sequence(1, size, len(stored(context)))
        labels = predicted(context.victim, self._points(context))
        nothing = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        threshold = float(calibrated_threshold(self.of_random(context, size), self.rate))
        return Sums(nothing, nothing, labels, threshold)

    def _moments(self, context: Context, labels: Tensor) -> Moments:
        points, solved = self._points(context), (self.preconditioner, self.solver)

        def made() -> Moments:
            parts = [found.double() for _, found in record_effects(context, points, labels, *solved)]
            means, deviations = ([of(each) for each in parts] for of in (_mean, _deviation))
            return Moments(torch.cat(means), torch.cat(deviations), parts[0].shape[1])

        return once(context, points, ("moments", tuple(labels.tolist()), *solved), made)

    def _points(self, context: Context) -> Examples:
        return context.trusted[: self.points]


def standardised_in_turn(effects: Tensor, batches: Tensor) -> Tensor:
    """z (length, k, t) of k sequences of disjoint `batches` (k, length, m) of n records with `effects` (t, n).

    Every batch is standardised with the moments of the records that those before it left.
    """
    n, (_, length, size) = effects.shape[1], batches.shape
    centred = effects.double() - effects.double().mean(1, keepdim=True)  # z does not change, and less cancels
    drawn = centred[:, batches]  # (t, k, length, m)
    sums, squares = drawn.sum(-1), drawn.square().sum(-1)
    gone, gone_squares = sums.cumsum(-1) - sums, squares.cumsum(-1) - squares
    left = n - size * torch.arange(length, dtype=torch.float64, device=effects.device)
    mean = -gone / left
    variance = (centred.square().sum(1)[:, None, None] - gone_squares - left * mean.square()) / (left - 1).clamp_min(1)
    deviation = (size * (1 - size / left) * variance.clamp_min(0)).sqrt()
    moves = deviation > 0
    z = torch.where(moves, (sums - size * mean) / torch.where(moves, deviation, 1), 0)
    return z.permute(2, 1, 0)


def _drawn(effects: Tensor, every: int, sequences: int) -> tuple[int, int, int, int]:
    return effects.shape[1], every, sequences, max(1, NUMBERS // (len(effects) * every))


def _mean(effects: Tensor) -> Tensor:
    return effects.mean(1)


def _deviation(effects: Tensor) -> Tensor:
    return effects.std(1)
