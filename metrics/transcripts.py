"""Which of two worlds a model comes from, told by its answers to T queries: Gaussians, errors, and who learns what.

A world is given as its models' outputs (N, T): one number for each model and query, such as the log-odds of the true
class. Errors are counted on models that no Gaussian was fitted on: errors of the fitted Gaussians themselves, as
computed by sampling from them, call two samples of one distribution different.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metrics.margins import margins

Covariance = Literal["diagonal", "ledoit_wolf"]
FLOOR = 1e-12  # of a variance: outputs that are the same in all models have one, too


def log_odds(probabilities: Tensor, y: Tensor, clamp: float = 1e-9) -> Tensor:
    """log(p_y / (1 - p_y)) of probabilities (..., n, K) at labels y (n,): (..., n), float64.

    1 - p_y is the sum of the others, which is exact where p_y rounds to one; every probability is at least `clamp`, so
    that the result is finite and at most -log(clamp) in size. What is not a number stays so.
    """
    return margins(probabilities.double().clamp_min(clamp).log(), y).double()


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, L L') of T outputs: `mean` (T,), and L as standard deviations (T,) or lower triangular (T, T)."""

    mean: Tensor
    root: Tensor

    def standardised(self, outputs: Tensor) -> Tensor:
        """L^-1 (x - mean) of each row of `outputs` (n, T): (n, T), of variance 1 where the model fits."""
        off = outputs.double() - self.mean
        if self.root.dim() == 1:
            return off / self.root
        return torch.linalg.solve_triangular(self.root, off.T, upper=False).T

    def log_density(self, outputs: Tensor) -> Tensor:
        """log N of each row of `outputs` (n, T), in nats: (n,)."""
        scale = self.root if self.root.dim() == 1 else self.root.diagonal()
        constant = scale.log().sum() + len(scale) / 2 * math.log(2 * math.pi)
        return -self.standardised(outputs).square().sum(1) / 2 - constant


class Worlds(NamedTuple):
    """The outputs of the models of two worlds: (N, T) and (M, T)."""

    honest: Tensor
    dishonest: Tensor

    def rows(self, honest: Tensor, dishonest: Tensor) -> Worlds:
        """The models at these positions."""
        return Worlds(self.honest[honest], self.dishonest[dishonest])

    def at(self, queries: Tensor) -> Worlds:
        """The outputs at these queries."""
        return Worlds(self.honest[:, queries], self.dishonest[:, queries])


@dataclass(frozen=True, eq=False)
class RatioTest:
    """The likelihood-ratio test of two fitted worlds: log N_dishonest - log N_honest > 0 says dishonest."""

    honest: Gaussian
    dishonest: Gaussian

    def statistic(self, outputs: Tensor) -> Tensor:
        """The log-likelihood ratio of each row of `outputs` (n, T), in nats: (n,)."""
        return self.dishonest.log_density(outputs) - self.honest.log_density(outputs)


@dataclass(frozen=True, kw_only=True)
class Errors:
    """How often a test is wrong, counted on `honest` and `dishonest` models: `miss` is alpha, `false_alarm` alpha'.

    A miss is a dishonest model that is believed, a false alarm an honest one that is accused.
    """

    miss: float
    false_alarm: float
    honest: int
    dishonest: int

    @property
    def advantage(self) -> float:
        """J = 1 - alpha - alpha': 1 for a test that is never wrong, 0 for one that knows nothing."""
        return 1 - self.miss - self.false_alarm

    @property
    def standard_error(self) -> float:
        """Binomial standard error of J."""
        a, b = self.miss, self.false_alarm
        return math.sqrt(a * (1 - a) / self.dishonest + b * (1 - b) / self.honest)


def gaussian(outputs: Tensor, covariance: Covariance = "diagonal") -> Gaussian:
    """The Gaussian of `outputs` (N, T), N >= 2, with independent queries or all covariances shrunk (`ledoit_wolf`).

    Raises ValueError for fewer models, or outputs that are not finite.
    """
    values = outputs.double()
    if len(values) < 2 or not bool(values.isfinite().all()):
        raise ValueError(f"A Gaussian is fitted on 2 or more models with finite outputs, not on {len(values)}.")
    if covariance == "diagonal":
        return Gaussian(values.mean(0), values.var(0).clamp_min(FLOOR).sqrt())
    matrix = ledoit_wolf(values)
    return Gaussian(values.mean(0), torch.linalg.cholesky(matrix + FLOOR * torch.eye(len(matrix), dtype=torch.float64)))


def ledoit_wolf(outputs: Tensor) -> Tensor:
    """(1 - s) S + s (tr S / T) I, the shrunk covariance (T, T) of `outputs` (N, T); S is the empirical one, over N.

    s = min(b, d) / d with b = sum_i ||x_i x_i' - S||^2 / N^2 and d = ||S - (tr S / T) I||^2 (Frobenius norms, centred
    x_i): Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004.
    """
    x = outputs.double() - outputs.double().mean(0)
    n, t = x.shape
    s = x.T @ x / n
    target = s.trace() / t * torch.eye(t, dtype=torch.float64)
    d = (s - target).square().sum()
    b = (x.square().sum(1).square().sum() / n - s.square().sum()) / n
    share = float((b / d).clamp(0, 1)) if d > 0 else 0.0
    return (1 - share) * s + share * target


def fitted(worlds: Worlds, covariance: Covariance = "diagonal") -> RatioTest:
    """The test whose Gaussians are those of `worlds`."""
    return RatioTest(gaussian(worlds.honest, covariance), gaussian(worlds.dishonest, covariance))


def held_out(test: RatioTest, others: Worlds) -> Errors:
    """The errors of `test`, counted on models that it was not fitted on."""
    accused, believed = test.statistic(others.honest) > 0, test.statistic(others.dishonest) <= 0
    return Errors(
        miss=float(believed.double().mean()),
        false_alarm=float(accused.double().mean()),
        honest=len(accused),
        dishonest=len(believed),
    )


def discriminating(worlds: Worlds, count: int) -> Tensor:
    """The `count` queries that tell the worlds apart best, the best first: (mean - mean')^2 / (var + var')."""
    honest, dishonest = worlds.honest.double(), worlds.dishonest.double()
    spread = (honest.var(0) + dishonest.var(0)).clamp_min(FLOOR)
    score = (honest.mean(0) - dishonest.mean(0)).square() / spread
    return score.argsort(descending=True, stable=True)[:count]


def cross_fitted(worlds: Worlds, folds: int, covariance: Covariance = "diagonal", choose: int | None = None) -> Errors:
    """The errors of the test, each model judged by one fitted on the models of the other `folds`.

    Model i of either world is in fold i mod `folds`, so that two worlds may share their models' randomness position by
    position. With `choose` only so many queries are used, those that discriminate best among the models of the fit.
    Without any difference between the worlds J is 0 in expectation. Raises ValueError where a fold has too few models.
    """
    sizes = (len(worlds.honest), len(worlds.dishonest))
    if folds < 2 or min(sizes) < folds or min(sizes) - math.ceil(min(sizes) / folds) < 2:
        raise ValueError(f"Worlds of {sizes[0]} and {sizes[1]} models do not suffice for {folds} folds.")
    wrong = [0.0, 0.0]
    for fold in range(folds):
        inside = [torch.arange(size) % folds == fold for size in sizes]
        fit, count = worlds.rows(~inside[0], ~inside[1]), worlds.rows(inside[0], inside[1])
        if choose is not None:
            queries = discriminating(fit, choose)
            fit, count = fit.at(queries), count.at(queries)
        found = held_out(fitted(fit, covariance), count)
        wrong[0] += found.miss * found.dishonest
        wrong[1] += found.false_alarm * found.honest
    return Errors(miss=wrong[0] / sizes[1], false_alarm=wrong[1] / sizes[0], honest=sizes[0], dishonest=sizes[1])


def coupling(along: Tensor, deleted: Tensor | float, share: float = 0.0) -> Tensor:
    """kappa(z) of m retained records: how much a query whose answer shows compliance shows of their membership, (m,).

    kappa(z) = |<g_z, H^-1 G>| / ((1 - eta) <G, H^-1 G>), with G the sum of the deleted records' gradients, H^-1 G the
    step that forgets them, and eta = `share` what a dishonest provider does of it. `along` are the <g_z, H^-1 G> (m,),
    `deleted` is <G, H^-1 G>; both may have any common factor. The same is |rho_z| / (1 - eta) ||g_z||_w / ||G||_w in
    the norm of H^-1, with rho_z the cosine of g_z and G (Tang, Joshi, Kundu, arXiv 2606.14518).
    """
    return (along / ((1 - share) * deleted)).abs()
