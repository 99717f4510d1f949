"""Softmax regression in closed form, in float64: its perturbed minimum, and what a step leaves of the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.curvature import LARGEST, softmax_curvature
from models.logistic import Logistic
from models.solver import cholesky_preconditioner, conjugate_gradients
from models.victim import Victim
from unlearning.task import Task

NUMBERS = 2**24  # entries of the tables that are held at once
GAMMA = math.sqrt(2) ** 3 / (6 * math.sqrt(3))
"""Lipschitz constant of Lambda(z) = diag(p) - pp', the Hessian of cross-entropy in the logits z, in the 2-norm: 0.2722.

The derivative of Lambda is a symmetric tensor T, whose norm is attained on the diagonal: T(u, u, u) is the third
central moment of the variable u_k under p. For ||u|| = 1 its values lie in an interval of length at most sqrt 2, and
the third central moment of a variable on an interval of length r is at most r^3 / (6 sqrt 3).
"""


def design(victim: Victim, records: Examples) -> Tensor:
    """The features (n, d) of a `Logistic` model, with a constant 1 after them: logits are X theta', theta (K, d)."""
    x = records.x.flatten(1).double()
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)


def as_matrix(flat: Tensor, classes: int) -> Tensor:
    """Parameters (..., p), all weights and then the biases, as theta (..., K, d) in float64."""
    flat = flat.double()
    weights = flat[..., :-classes].reshape(*flat.shape[:-1], classes, -1)
    return torch.cat([weights, flat[..., -classes:, None]], dim=-1)


def as_flat(theta: Tensor) -> Tensor:
    """The inverse of `as_matrix`."""
    return torch.cat([theta[..., :-1].flatten(-2), theta[..., -1]], dim=-1)


def spectral_norm(x: Tensor) -> Tensor:
    """||X||_2 of (n, d), exactly, from the eigenvalues of X'X: power iteration would give a lower bound."""
    return torch.linalg.eigvalsh(x.T @ x)[-1].clamp_min(0).sqrt()


def remainder_bound(x: Tensor, retain_weights: Tensor, steps: Tensor, norm: Tensor) -> Tensor:
    """(gamma/2) ||X||_2 sqrt(sum_i k_i ||S x_i||^4), shape (m,), for rows k = 1 - w of `retain_weights` (m, n).

    The steps S are (m, K, d). It bounds the remainder R = grad G(theta + S) - grad G(theta) - grad^2 G(theta) S of the
    sum G = sum_i k_i l_i. Proof: R = sum_i k_i r_i x_i' with r_i = p(z_i + u_i) - p(z_i) - Lambda(z_i) u_i and u_i = S
    x_i. As p' = Lambda is gamma-Lipschitz, ||r_i|| <= (gamma/2) ||u_i||^2; and ||R||_F <= ||sqrt(k) X||_2 (sum_i k_i
    ||r_i||^2)^{1/2}. `norm` is ||X||_2 of these records or of more, since leaving out rows lowers it. Guo et al. bound
    the last factor further, to gamma ||X||_2 ||S|| ||X S'||_F for ||x_i|| <= 1, and have no 1/2.
    """
    logits = torch.einsum("nd,mkd->mnk", x, steps)
    return GAMMA / 2 * norm * (retain_weights * logits.square().sum(2).square()).sum(1).sqrt()


def worst_case_bound(count: int, retained: int, n: int, decay: float, largest: float) -> float:
    """What `remainder_bound` can be at most when `count` records are removed and `retained` stay; rows have ||x|| <= B.

    (gamma/2) B^3 retained (count sqrt(2) B / (lambda n))^2: ||S|| is at most the sum of the leaving gradients, each at
    most ||p - e_y|| ||x|| <= sqrt(2) B, over the strong convexity lambda n of the sum; ||X||_2 <= B sqrt(retained). It
    holds for every perturbation, because the regulariser stays what it was and does not enter the step.
    """
    return GAMMA / 2 * largest**3 * retained * (count * math.sqrt(2) * largest / (decay * n)) ** 2


@dataclass(frozen=True, eq=False)
class SoftmaxRegression:
    """The sum L(theta; w) = sum_i (1 - w_i) l_i + (lambda n/2) ||theta||^2 + <b, theta>, which is n F + <b, theta>.

    `x` (n, d) in float64 with the constant feature, `y` (n,), `decay` the lambda of F; theta is (K, d).
    """

    x: Tensor
    y: Tensor
    classes: int
    decay: float

    def value(self, theta: Tensor, retain_weights: Tensor, noise: Tensor) -> Tensor:
        """L of every model, (m,), for theta (m, K, d), `retain_weights` = 1 - w (m, n) and b = `noise` (m, K, d)."""
        p = self._logits(theta).log_softmax(2)
        losses = -(retain_weights * p[:, torch.arange(len(self.x), device=self.x.device), self.y]).sum(1)
        return losses + (self.decay * len(self.x) / 2 * theta.square() + noise * theta).sum((1, 2))

    def gradient(self, theta: Tensor, retain_weights: Tensor, noise: Tensor) -> Tensor:
        """grad L of every model, (m, K, d)."""
        pulled = torch.einsum("mnk,nd->mkd", retain_weights[:, :, None] * self._errors(theta), self.x)
        return pulled + self.decay * len(self.x) * theta + noise

    def probabilities(self, theta: Tensor) -> Tensor:
        """Predictions of every model, (m, n, K)."""
        return self._logits(theta).softmax(2)

    def product(self, probabilities: Tensor, retain_weights: Tensor, directions: Tensor) -> Tensor:
        """grad^2 L times a direction for every model, (m, K, d), at the parameters with these predictions."""
        curved = softmax_curvature(probabilities, self._logits(directions))
        return (
            torch.einsum("mnk,nd->mkd", retain_weights[:, :, None] * curved, self.x)
            + self.decay * len(self.x) * directions
        )

    def hessian(self, theta: Tensor, retain_weights: Tensor) -> Tensor:
        """grad^2 L = sum_i k_i Lambda_i (x) x_i x_i' + lambda n I, (K d, K d), of a model (K, d), k = 1 - w (n,)."""
        p, d = (self.x @ theta.T).softmax(1), self.x.shape[1]
        size = self.classes * d
        total = self.decay * len(self.x) * torch.eye(size, dtype=p.dtype, device=p.device)
        for part in range(0, len(p), max(1, NUMBERS // size)):
            rows = slice(part, part + max(1, NUMBERS // size))
            outer = (p[rows, :, None] * self.x[rows, None, :]).flatten(1)
            total -= (retain_weights[rows, None] * outer).T @ outer
        for k in range(self.classes):
            total[k * d : (k + 1) * d, k * d : (k + 1) * d] += ((retain_weights * p[:, k])[:, None] * self.x).T @ self.x
        return total

    def minimise(self, retain_weights: Tensor, noise: Tensor, tolerance: float, iterations: int = 100) -> Tensor:
        """The minima (m, K, d) of L by Newton's method from 0, all rows together, until ||grad L|| <= n tolerance.

        The steps are solved by conjugate gradients, preconditioned by the Hessian of the mean model. At the level of
        rounding it stops too. Raises UserError where that is not reached.
        """
        n, theta = len(self.x), torch.zeros_like(noise)
        target = (64 * torch.finfo(theta.dtype).eps * (1 + noise.norm(dim=(1, 2)) / n)).clamp_min(tolerance)
        for _ in range(iterations):
            slope = self.gradient(theta, retain_weights, noise)
            if (slope.norm(dim=(1, 2)) / n <= target).all():
                return theta
            step = self._newton_step(theta, retain_weights, slope)
            before, scale = self.value(theta, retain_weights, noise), torch.ones_like(target)[:, None, None]
            for _ in range(30):
                worse = self.value(theta - scale * step, retain_weights, noise) > before + 1e-14 * before.abs()
                if not worse.any():
                    break
                scale = torch.where(worse[:, None, None], scale / 2, scale)
            theta = theta - scale * step
        raise UserError(
            f"unlearning=certified_removal did not reach the minimum in {iterations} Newton steps (gradient norm "
            f"{float(slope.norm(dim=(1, 2)).max()) / n:.1e}); raise training.weight_decay or lower unlearning.sigma."
        )

    def _newton_step(self, theta: Tensor, retain_weights: Tensor, slope: Tensor) -> Tensor:
        """H^{-1} slope for every model, to a relative residual of 1e-4."""
        p = self.probabilities(theta)

        def product(vectors: Tensor) -> Tensor:
            return self.product(p, retain_weights, vectors.reshape(theta.shape)).flatten(1)

        factor = cholesky_preconditioner(self.hessian(theta.mean(0), retain_weights.mean(0)))
        return conjugate_gradients(product, slope.flatten(1), 1e-4, 1000, factor).x.reshape(theta.shape)

    def left_over(self, theta: Tensor, retain_weights: Tensor, leaving: Tensor, steps: Tensor, norm: Tensor) -> Tensor:
        """A bound on ||grad L(theta + S; w) - grad L(theta; before)|| for every row, shape (m,).

        `retain_weights` (m, n) = 1 - w, `leaving` (m, n) the weights deleted by this request, S = `steps` (m, K, d) as
        they were taken, in float64. Where S solves grad^2 L S = sum_i leaving_i grad l_i only the remainder of Taylor
        is left, which `remainder_bound` bounds; how far it does not, by the solver's tolerance and by rounding, is
        added.
        """
        p, errors = self.probabilities(theta[None]), self._errors(theta[None])
        return torch.cat(
            [
                self._not_solved(p, errors, *part).norm(dim=(1, 2)) + remainder_bound(self.x, part[0], part[2], norm)
                for part in self.chunks(retain_weights, leaving, steps)
            ]
        )

    def _not_solved(self, p: Tensor, errors: Tensor, retain_weights: Tensor, leaving: Tensor, steps: Tensor) -> Tensor:
        """grad^2 L(theta; w) S - sum_i leaving_i grad l_i, shape (m, K, d)."""
        sums = torch.einsum("mnk,nd->mkd", leaving[:, :, None] * errors, self.x)
        return self.product(p, retain_weights, steps) - sums

    def _logits(self, theta: Tensor) -> Tensor:
        return torch.einsum("nd,mkd->mnk", self.x, theta)

    def _errors(self, theta: Tensor) -> Tensor:
        """p - e_y, the gradient of every loss in its logits, shape (m, n, K)."""
        return self.probabilities(theta) - torch.nn.functional.one_hot(self.y, self.classes)

    def chunks(self, *tables: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Parts of tables with a row for every model, so small that (m, n, K) numbers fit into memory."""
        size = max(1, NUMBERS // (len(self.x) * self.classes))
        return zip(*(table.split(size) for table in tables), strict=True)


def check_softmax_regression(task: Task) -> None:
    """Raise UserError unless the task is softmax regression at its minimum, strongly convex and small."""
    module = task.build()
    if type(module) is not Logistic:  # a class derived from it may compute something else
        raise UserError(
            "unlearning=certified_removal is proven for linear models only; choose model=logistic, "
            "or unlearning=certified for deep networks."
        )
    if task.training.optimizer != "newton":
        raise UserError(
            "unlearning=certified_removal needs the minimum of the training objective; use training=newton."
        )
    if task.training.weight_decay <= 0:
        raise UserError("unlearning=certified_removal needs training.weight_decay above 0, for strong convexity.")
    size = sum(parameter.numel() for parameter in module.parameters())
    if size > LARGEST:
        raise UserError(
            f"unlearning=certified_removal is for up to {LARGEST:,} parameters; this model has {size:,}: "
            "choose a data set with fewer features or classes."
        )
