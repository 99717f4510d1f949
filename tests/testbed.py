"""The Gaussian testbed: softmax regression in float64, small enough for exact answers in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from attacks.crafting.attack import Attacker, AttackGoal
from data.examples import Examples
from data.randomness import generator
from models.logistic import Logistic
from models.training import Training
from models.victim import Victim
from unlearning.procedure import Task
from unlearning.retrain import Retrain

CLASSES, FEATURES, TRAINING, TEST, TRUSTED, SEPARATION, LAMBDA = 3, 10, 300, 1000, 500, 1.6, 1.0
SPARES = 600  # records that nobody trains on, unless they stand in for others


@dataclass(frozen=True, eq=False)
class Testbed:
    """One draw of the testbed with its victim trained to a gradient norm below 1e-10."""

    task: Task
    test: Examples
    trusted: Examples
    victim: Victim
    seed: int
    spares: Examples

    __test__ = False

    def goals(self, positions: torch.Tensor, direction: int = 1) -> list[AttackGoal]:
        labels = self.victim.logits(self.test.x).argmax(-1)
        return [AttackGoal(self.test.x[i : i + 1], labels[i : i + 1], direction) for i in positions.tolist()]

    def attacker(self, pool: torch.Tensor | None = None) -> Attacker:
        pool = torch.arange(TRAINING) if pool is None else pool
        reference = self.test[torch.arange(TEST - 100, TEST)]
        return Attacker(pool, self.task.records[pool], reference)

    def targets(self, count: int) -> torch.Tensor:
        """Correct test points with a margin below the 40% quantile."""
        logits = self.victim.logits(self.test.x)
        top = logits.topk(2).values
        margin = top[:, 0] - top[:, 1]
        good = (logits.argmax(-1) == self.test.y) & (margin < margin.quantile(0.4))
        good[TEST - 100 :] = False  # these are the attacker's reference points
        return good.nonzero()[:count, 0]

    def in_band(self, low: float, high: float, count: int) -> torch.Tensor:
        """Correct test points whose confidence lies in (low, high)."""
        p = self.victim.probabilities(self.test.x)
        good = (p.argmax(-1) == self.test.y) & (p.amax(-1) > low) & (p.amax(-1) < high)
        good[TEST - 100 :] = False
        return good.nonzero()[:count, 0]


def testbed(seed: int) -> Testbed:
    """Draw the testbed: three random means of norm 1.6, x = mean + N(0, I)."""
    rng = generator(seed, "testbed")
    means = torch.randn(CLASSES, FEATURES, generator=rng, dtype=torch.float64)
    means = SEPARATION * means / means.norm(dim=1, keepdim=True)

    def draw(count: int) -> Examples:
        y = torch.randint(CLASSES, (count,), generator=rng)
        return Examples(means[y] + torch.randn(count, FEATURES, generator=rng, dtype=torch.float64), y)

    records, test, trusted, spares = draw(TRAINING), draw(TEST), draw(TRUSTED), draw(SPARES)
    build = partial(Logistic, shape=(FEATURES,), classes=CLASSES)
    task = Task(records, build, Training(optimizer="newton", weight_decay=LAMBDA / TRAINING))
    return Testbed(task, test, trusted, Retrain().learn(task, seed), seed, spares)


testbed.__test__ = False  # type: ignore[attr-defined]
