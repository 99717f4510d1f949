"""The closed forms of softmax regression, and the constant and the bounds of certified removal, against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from data.randomness import generator
from unlearning.certification.softmax_regression import (
    GAMMA,
    SoftmaxRegression,
    as_flat,
    as_matrix,
    remainder_bound,
    spectral_norm,
    worst_case_bound,
)

N, D, K, DECAY = 40, 6, 3, 0.02


def draw(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


@pytest.fixture
def problem() -> SoftmaxRegression:
    x = torch.cat([draw(N, D - 1), torch.ones(N, 1, dtype=torch.float64)], dim=1)
    return SoftmaxRegression(x, torch.arange(N) % K, K, DECAY)


@pytest.fixture
def keep() -> Tensor:
    return torch.rand(N, generator=generator(1, "keep"), dtype=torch.float64)


def gradient(problem: SoftmaxRegression, theta: Tensor, keep: Tensor, b: Tensor) -> Tensor:
    return problem.gradient(theta[None], keep[None], b[None])[0]


def loss_curvature(z: Tensor) -> Tensor:
    p = z.softmax(-1)
    return torch.diag_embed(p) - p[..., :, None] * p[..., None, :]


def test_gradient_and_hessian_are_those_of_autograd(problem: SoftmaxRegression, keep: Tensor) -> None:
    theta, b = draw(K, D, name="theta"), draw(K, D, name="b")

    def value(flat: Tensor) -> Tensor:
        return problem.value(flat.reshape(1, K, D), keep[None], b[None])[0]

    def by_hand(flat: Tensor) -> Tensor:
        losses = torch.nn.functional.cross_entropy(problem.x @ flat.reshape(K, D).T, problem.y, reduction="none")
        return keep @ losses + DECAY * N / 2 * flat @ flat + b.flatten() @ flat

    flat = theta.flatten()
    assert float(value(flat)) == pytest.approx(float(by_hand(flat)), rel=1e-12)
    slope, matrix = torch.func.grad(by_hand)(flat), torch.func.hessian(by_hand)(flat)
    assert (gradient(problem, theta, keep, b).flatten() - slope).abs().max() < 1e-12
    assert (problem.hessian(theta, keep) - matrix).abs().max() < 1e-12
    product = problem.product(problem.probabilities(theta[None]), keep[None], b[None])[0].flatten()
    assert (product - matrix @ b.flatten()).abs().max() < 1e-12


@pytest.mark.parametrize("spread", [0.0, 1.0, 100.0])
def test_newton_reaches_the_minimum(problem: SoftmaxRegression, keep: Tensor, spread: float) -> None:
    """Also where the perturbation is so large that a full Newton step from 0 would overshoot."""
    b = spread * draw(4, K, D, name="b")
    rows = torch.stack([keep, 1 - keep, torch.ones(N).double(), torch.zeros(N).double()])
    found = problem.minimise(rows, b, 1e-12)
    for theta, kept, each in zip(found, rows, b, strict=True):
        assert gradient(problem, theta, kept, each).norm() / N < 1e-12 * (1 + each.norm())


def test_matrix_and_vector_of_parameters_are_inverse() -> None:
    theta = draw(4, K, D, name="theta")
    assert torch.equal(as_matrix(as_flat(theta), K), theta)
    assert torch.equal(as_flat(theta)[:, -K:], theta[:, :, -1])


def test_gamma_bounds_the_change_of_curvature() -> None:
    """||Lambda(a) - Lambda(b)||_2 <= gamma ||a - b||_2 at 2,000 random pairs for each number of classes."""
    for classes in (2, 3, 10):
        a = 3 * draw(2000, classes, name="a")
        b = a + torch.logspace(-3, 1, 2000, dtype=torch.float64)[:, None] * draw(2000, classes, name="b")
        change = torch.linalg.matrix_norm(loss_curvature(a) - loss_curvature(b), 2)
        assert (change <= GAMMA * (a - b).norm(dim=1) * (1 + 1e-9)).all()


def test_gamma_is_the_largest_third_central_moment() -> None:
    """Attained: two classes with p (1 - p) (1 - 2 p) = 1/(6 sqrt 3), along (1, -1)/sqrt 2. Ascent finds no more."""
    p = 0.5 - math.sqrt(3) / 6
    z = torch.tensor([math.log(p), math.log(1 - p)], dtype=torch.float64)
    u = torch.tensor([1.0, -1.0], dtype=torch.float64) / math.sqrt(2)
    third = torch.func.jvp(lambda at: u @ loss_curvature(at) @ u, (z,), (u,))[1]
    assert float(third.abs()) == pytest.approx(GAMMA, rel=1e-12)
    assert pytest.approx(0.2722, abs=1e-4) == GAMMA
    logits = draw(200, 5, name="start").requires_grad_()
    direction = draw(200, 5, name="direction").requires_grad_()
    optimizer = torch.optim.Adam([logits, direction], lr=0.05)
    for _ in range(400):
        unit = direction / direction.norm(dim=1, keepdim=True)
        weights = logits.softmax(1)
        centred = unit - (weights * unit).sum(1, keepdim=True)
        moment = (weights * centred**3).sum(1)
        optimizer.zero_grad()
        (-moment.sum()).backward()
        optimizer.step()
    assert float(moment.detach().max()) <= GAMMA * (1 + 1e-12)
    assert float(moment.detach().max()) > 0.99 * GAMMA


def test_spectral_norm_is_exact() -> None:
    """Power iteration of 20 steps stays below it on random unit rows, as the code of Guo et al. takes it."""
    x = draw(400, 60)
    x = x / x.norm(dim=1, keepdim=True)
    assert float(spectral_norm(x)) == pytest.approx(float(torch.linalg.svdvals(x)[0]), rel=1e-12)
    v = draw(60, name="v")
    for _ in range(20):
        v = x.T @ (x @ v)
        v = v / v.norm()
    assert (x @ v).norm() < spectral_norm(x)


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 10.0])
def test_the_remainder_is_within_its_bound(problem: SoftmaxRegression, keep: Tensor, size: float) -> None:
    """True remainder <= the bound <= the form of Guo et al. with gamma ||X|| max||x|| ||S|| ||X S'|| / 2."""
    zero = torch.zeros(K, D, dtype=torch.float64)
    theta, steps = draw(K, D, name="theta"), size * draw(8, K, D, name="steps")
    norm, rows = spectral_norm(problem.x), keep.expand(8, -1)
    bound = remainder_bound(problem.x, rows, steps, norm)
    for step, each in zip(steps, bound, strict=True):
        linear = (problem.hessian(theta, keep) @ step.flatten()).reshape(K, D)
        rest = gradient(problem, theta + step, keep, zero) - gradient(problem, theta, keep, zero) - linear
        assert rest.norm() <= each
        spread = (keep.sqrt()[:, None] * (problem.x @ step.T)).norm()
        longest = problem.x.norm(dim=1).max()
        assert each <= GAMMA / 2 * norm * longest * torch.linalg.matrix_norm(step, 2) * spread * (1 + 1e-12)


def test_what_a_step_leaves_over_counts_the_solver_s_error(problem: SoftmaxRegression, keep: Tensor) -> None:
    """grad L after minus grad L before is within the bound for any step at all, exact or wrong."""
    zero = torch.zeros(K, D, dtype=torch.float64)
    theta, gone = draw(K, D, name="theta"), 0.5 * keep
    after, leaving = 1 - keep, keep - gone
    sums = gradient(problem, theta, leaving, zero) - DECAY * N * theta
    exact = torch.linalg.solve(problem.hessian(theta, after), sums.flatten()).reshape(K, D)
    steps = torch.stack([exact, 1.1 * exact, exact + 0.01 * draw(K, D, name="off"), 0 * exact])
    rows = [each.expand(4, -1) for each in (after, leaving)]
    bound = problem.left_over(theta, *rows, steps, spectral_norm(problem.x))
    before = gradient(problem, theta, 1 - gone, zero)
    for step, each in zip(steps, bound, strict=True):
        assert (gradient(problem, theta + step, after, zero) - before).norm() <= each * (1 + 1e-12)
    remainder = remainder_bound(problem.x, after[None], exact[None], spectral_norm(problem.x))[0]
    assert float(bound[0]) == pytest.approx(float(remainder), rel=1e-9)
    assert float(bound[3]) == pytest.approx(float(sums.norm()), rel=1e-12)  # no step: all of it is left


def test_the_worst_case_is_no_less(problem: SoftmaxRegression) -> None:
    zero = torch.zeros(K, D, dtype=torch.float64)
    longest = float(problem.x.norm(dim=1).max())
    theta = problem.minimise(torch.ones(1, N, dtype=torch.float64), zero[None], 1e-12)[0]
    for count in (1, 5, 15):
        leaving = (torch.arange(N) < count).double()
        sums = gradient(problem, theta, leaving, zero) - DECAY * N * theta
        step = torch.linalg.solve(problem.hessian(theta, 1 - leaving), sums.flatten()).reshape(1, K, D)
        bound = float(remainder_bound(problem.x, 1 - leaving[None], step, spectral_norm(problem.x))[0])
        assert bound <= worst_case_bound(count, N - count, N, DECAY, longest)
