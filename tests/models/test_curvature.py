"""Products with the curvature, against dense matrices from double backpropagation."""

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian as dense_hessian
from torch.autograd.functional import jacobian

import models.curvature
from models.curvature import dense, gauss_newton, hessian, softmax_curvature
from models.gradients import objective_gradient
from models.victim import Victim, forward, stack, unflatten
from tests.models.problems import N, deletions, directions, examples, flat_objective, victim

ALL = pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "batch_norm"])
SHIFT = 0.2


def exact_hessian(model: Victim, name: str, deleted: Tensor) -> Tensor:
    return dense_hessian(flat_objective(model, examples(name), deleted, SHIFT), model.flat())


def exact_gauss_newton(model: Victim, name: str, deleted: Tensor) -> Tensor:
    """(1/n) sum (1 - w_i) J_i' (diag p_i - p_i p_i') J_i + shift I with J_i from reverse mode, written out."""
    data, theta = examples(name), model.flat()

    def logits(flat: Tensor) -> Tensor:
        return forward(model.module, unflatten(flat, model.parameters), model.buffers, data.x)

    jacobians, probabilities = jacobian(logits, theta), logits(theta).softmax(-1)
    total = SHIFT * torch.eye(len(theta), dtype=torch.float64)
    for i in range(N):
        p = probabilities[i]
        total += (1 - deleted[i]) / N * jacobians[i].T @ (torch.diag(p) - torch.outer(p, p)) @ jacobians[i]
    return total


def close(left: Tensor, right: Tensor) -> None:
    assert left.shape == right.shape
    assert (left - right).abs().max() < 1e-9


@ALL
def test_products_of_several_models(name: str) -> None:
    """Three models with parameters, deletion weights and directions of their own."""
    victims, deleted = [victim(name, seed) for seed in range(3)], deletions(3)
    vectors, models_ = directions(victims[0], 3), stack(victims)
    for make, exact in ((hessian, exact_hessian), (gauss_newton, exact_gauss_newton)):
        expected = torch.stack([exact(model, name, deleted[j]) @ vectors[j] for j, model in enumerate(victims)])
        close(make(models_, examples(name), deleted, SHIFT)(vectors), expected)


def test_gauss_newton_is_the_hessian_where_logits_are_linear() -> None:
    models_, deleted = stack([victim("logistic")] * 2), deletions(2)
    vectors = directions(models_[0], 2)
    data = examples("logistic")
    close(gauss_newton(models_, data, deleted, 0.1)(vectors), hessian(models_, data, deleted, 0.1)(vectors))
    bent = stack([victim("mlp")] * 2)
    vectors, data = directions(bent[0], 2), examples("mlp")
    assert (
        gauss_newton(bent, data, deleted, 0.1)(vectors) - hessian(bent, data, deleted, 0.1)(vectors)
    ).abs().max() > 1e-3


@pytest.mark.parametrize("chunk", [1, 4, 10_000])
@pytest.mark.parametrize("make", [hessian, gauss_newton])
def test_size_of_a_pass_does_not_matter(make: object, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(make)
    models_, data, deleted = stack([victim("mlp", 0), victim("mlp", 1)]), examples("mlp"), deletions(2)
    vectors = directions(models_[0], 2)
    expected = make(models_, data, deleted, SHIFT)(vectors)
    monkeypatch.setattr(models.curvature, "CHUNK", chunk)
    close(make(models_, data, deleted, SHIFT)(vectors), expected)


@ALL
def test_gauss_newton_is_positive_semi_definite(name: str) -> None:
    """Without shift; the smallest eigenvalue is zero up to rounding, and the Hessian of the bent models is not."""
    model, deleted = victim(name), deletions(2)[1:]
    size = len(model.flat())

    def matrix(make: object) -> Tensor:
        assert callable(make)

        def rows(vectors: Tensor) -> Tensor:
            m = len(vectors)
            return make(stack([model] * m), examples(name), deleted.expand(m, -1), 0.0)(vectors)

        return dense(rows, size, model.flat())

    curvature = matrix(gauss_newton)
    close(curvature, curvature.T)
    assert torch.linalg.eigvalsh(curvature)[0] > -1e-12 * torch.linalg.eigvalsh(curvature)[-1]
    if name != "logistic":
        assert torch.linalg.eigvalsh(matrix(hessian))[0] < -1e-3


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_hessian_by_finite_differences(name: str) -> None:
    """Central differences of the gradient, h = 1e-5: error about h^2 times a third derivative, and 1e-16 / h."""
    model, data, deleted = victim(name), examples(name), deletions(2)
    v = directions(model, 1)[0]
    v = v / v.norm()
    up, down = (model.moved((sign * 1e-5 * v)[None])[0] for sign in (1, -1))
    slopes = [objective_gradient(side, data, deleted, SHIFT) for side in (up, down)]
    product = hessian(stack([model] * 2), data, deleted, SHIFT)(v.expand(2, -1))
    assert ((slopes[0] - slopes[1]) / 2e-5 - product).abs().max() < 1e-8


def test_softmax_curvature() -> None:
    p = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    u = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([(torch.diag(q) - torch.outer(q, q)) @ d for q, d in zip(p, u, strict=True)])
    close(softmax_curvature(p, u), expected)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_dense_is_the_matrix(chunk: int) -> None:
    matrix = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = matrix + matrix.T
    close(dense(lambda rows: rows @ matrix, 7, matrix, chunk), matrix)
