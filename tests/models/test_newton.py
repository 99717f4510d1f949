"""Newton's method ends at the stationary point of the objective."""

from functools import partial

import pytest
import torch

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.gradients import objective_gradient
from models.logistic import Logistic
from models.mlp import MLP
from models.training import Training, train

BUILD = partial(Logistic, shape=(6,), classes=3)


def records(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Examples:
    rng = generator(0, "records")
    x = scale * torch.randn(80, 6, generator=rng, dtype=torch.float64)
    return Examples(x.to(dtype), torch.randint(3, (80,), generator=rng))


def deletions(m: int) -> torch.Tensor:
    weights = (torch.rand(m, 80, generator=generator(1, "w"), dtype=torch.float64) < 0.3).double()
    weights[-1] = torch.rand(80, generator=generator(2, "w"), dtype=torch.float64)  # relaxed deletions
    return weights


@pytest.mark.parametrize("weight_decay", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_gradient_vanishes_for_every_model(weight_decay: float, scale: float) -> None:
    """Judged by an independent gradient, at each model's own deletion weights."""
    data, weights = records(scale=scale), deletions(5)
    recipe = Training(optimizer="newton", weight_decay=weight_decay)
    trained = train(BUILD, data, recipe, [1, 1, 2, 2, 2], weights)
    for j in range(5):
        gradient = objective_gradient(trained[j], data, weights[j : j + 1], weight_decay)
        assert gradient.norm() < 1.01e-10


@pytest.mark.parametrize(
    ("dtype", "weight_decay", "spread"),
    [(torch.float64, 0.0, 1.0), (torch.float32, 1e-8, 1.0), (torch.float32, 1e-6, 30.0), (torch.float32, 0.0, 1.0)],
)
@pytest.mark.parametrize("m", [1, 3])
def test_hardly_curved_problems(dtype: torch.dtype, weight_decay: float, spread: float, m: int) -> None:
    """Without weight decay softmax has flat directions; columns of very different scale round the curvature away."""
    rng = generator(3, "flat")
    x = torch.randn(300, 6, generator=rng, dtype=torch.float64) * torch.logspace(
        -1, 1, 6, base=spread, dtype=torch.float64
    )
    data = Examples(x.to(dtype), torch.randint(3, (300,), generator=rng))
    recipe = Training(optimizer="newton", weight_decay=weight_decay)
    trained = train(BUILD, data, recipe, [1] * m, torch.zeros(m, 300))
    limit = max(1e-10, 32 * torch.finfo(dtype).eps)
    for j in range(m):
        assert objective_gradient(trained[j], data, torch.zeros(1, 300, dtype=dtype), weight_decay).norm() < 2 * limit


@pytest.mark.parametrize("weight_decay", [1e-3, 1e-6, 1e-9])
def test_models_that_share_no_example(weight_decay: float) -> None:
    """Their mean says little about them, so each is solved with its own curvature where it takes too long."""
    rng = generator(4, "shards")
    data = Examples(torch.randn(300, 6, generator=rng, dtype=torch.float64), torch.randint(3, (300,), generator=rng))
    deleted = torch.ones(5, 300, dtype=torch.float64)
    for j in range(5):
        deleted[j, 60 * j : 60 * (j + 1)] = 0
    trained = train(BUILD, data, Training(optimizer="newton", weight_decay=weight_decay), [1] * 5, deleted)
    for j in range(5):
        assert objective_gradient(trained[j], data, deleted[j, None], weight_decay).norm() < 1.01e-10


def test_minimum_does_not_depend_on_the_start() -> None:
    """Strong convexity: the distance is at most the sum of the gradient norms over lambda, 2e-10 / 1e-2."""
    trained = train(BUILD, records(), Training(optimizer="newton", weight_decay=1e-2), [1, 2]).flat()
    assert (trained[0] - trained[1]).norm() < 2e-8


def test_single_precision_ends_at_its_rounding() -> None:
    data = records(torch.float32)
    trained = train(BUILD, data, Training(optimizer="newton", weight_decay=1e-2), [1])
    assert trained.flat().dtype == torch.float32
    assert objective_gradient(trained[0], data, torch.zeros(1, 80), 1e-2).norm() < 64 * torch.finfo(torch.float32).eps
    exact = train(BUILD, records(), Training(optimizer="newton", weight_decay=1e-2), [1])
    assert (trained.flat().double() - exact.flat()).norm() < 64 * torch.finfo(torch.float32).eps / 1e-2


def test_large_models_are_refused() -> None:
    build = partial(MLP, shape=(6,), classes=3, widths=[600])
    with pytest.raises(UserError, match=r"newton is for up to 5,000 parameters; this model has 6,003"):
        train(build, records(), Training(optimizer="newton"), [1])


def test_no_convergence_says_so() -> None:
    data = records()
    poisoned = Examples(torch.where(data.x == data.x.max(), float("nan"), data.x), data.y)
    with pytest.raises(UserError, match=r"did not converge .* use training\.optimizer=sgd"):
        train(BUILD, poisoned, Training(optimizer="newton"), [1])
