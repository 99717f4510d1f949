"""Products with the curvature, against dense matrices from double backpropagation."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian as dense_hessian
from torch.autograd.functional import jacobian

import models.curvature
import models.linearised
from data.examples import Examples
from models.curvature import CURVATURES, dense, empirical_fisher, gauss_newton, hessian, softmax_curvature
from models.gradients import objective_gradient, per_example_gradients
from models.mlp import MLP
from models.training import initialise
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


def exact_fisher(model: Victim, name: str, deleted: Tensor) -> Tensor:
    """(1/n) sum (1 - w_i) g_i g_i' + shift I with the gradients of one example after the other."""
    gradients = per_example_gradients(model, examples(name))
    weighted = (1 - deleted)[:, None] / N * gradients
    return weighted.T @ gradients + SHIFT * torch.eye(gradients.shape[1], dtype=torch.float64)


def close(left: Tensor, right: Tensor) -> None:
    assert left.shape == right.shape
    assert (left - right).abs().max() < 1e-9


@ALL
@pytest.mark.parametrize("few", [0, 2])
def test_products_of_several_models(name: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three models with parameters, deletion weights and directions of their own; by dual numbers too."""
    monkeypatch.setattr(models.linearised, "FEW", few)
    victims, deleted = [victim(name, seed) for seed in range(3)], deletions(3)
    vectors, models_ = directions(victims[0], 3), stack(victims)
    pairs = ((hessian, exact_hessian), (gauss_newton, exact_gauss_newton), (empirical_fisher, exact_fisher))
    for make, exact in pairs:
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
@pytest.mark.parametrize("make", [hessian, gauss_newton, empirical_fisher])
def test_size_of_a_pass_does_not_matter(make: object, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(make)
    models_, data, deleted = stack([victim("mlp", 0), victim("mlp", 1)]), examples("mlp"), deletions(2)
    vectors = directions(models_[0], 2)
    expected = make(models_, data, deleted, SHIFT)(vectors)
    monkeypatch.setattr(models.curvature, "CHUNK", chunk)
    close(make(models_, data, deleted, SHIFT)(vectors), expected)


def test_vectors_with_a_gradient_give_products_without() -> None:
    model, data = victim("mlp"), examples("mlp")
    vectors = directions(model, 1).requires_grad_()
    assert not gauss_newton(model.copies(1), data, deletions(1), SHIFT)(vectors).requires_grad


@pytest.mark.parametrize("curvature", list(CURVATURES))
def test_size_of_a_pass_does_not_matter_in_single_precision(curvature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1e-6 relative: chunks are added up in float64, so only sums within a chunk are rounded to 6e-8."""
    data = examples("mlp", 5000)
    data = Examples(data.x.float(), data.y)
    model = victim("mlp")
    model = Victim(model.module, {name: value.float() for name, value in model.parameters.items()}, {})
    vectors, deleted, seen = directions(model, 1).float(), torch.zeros(1, 5000), []
    for chunk in (7, 100, 5000):
        monkeypatch.setattr(models.curvature, "CHUNK", chunk)
        seen.append(CURVATURES[curvature](model.copies(1), data, deleted, 0.0)(vectors))
        assert seen[-1].dtype == torch.float32
    assert all((other - seen[0]).norm() <= 1e-6 * seen[0].norm() for other in seen)


@ALL
@pytest.mark.parametrize("curvature", list(CURVATURES))
@pytest.mark.parametrize("m", [1, 2])
def test_weight_decay_is_the_squared_norm(name: str, curvature: str, m: int) -> None:
    """Its product is lambda v, for every v, along the parameters too, and where tensors are zero."""
    model = victim(name)
    zeroed = {n: torch.zeros_like(v) if n.endswith("bias") else v for n, v in model.parameters.items()}
    for at in (model, Victim(model.module, zeroed, model.buffers)):
        for v in (directions(at, 1)[0], at.flat(), torch.zeros_like(at.flat()), 1e3 * directions(at, 2)[1]):
            rows = v.expand(m, -1)
            plain, with_decay = (
                CURVATURES[curvature](at.copies(m), examples(name), deletions(m), shift)(rows) for shift in (0.0, 0.7)
            )
            assert (with_decay - plain - 0.7 * rows).abs().max() <= 1e-10
            assert with_decay.isfinite().all()


@pytest.mark.parametrize("curvature", list(CURVATURES))
def test_one_model_alone_and_many_agree(curvature: str) -> None:
    """One model is spared vmap; nothing of the models or of the caller's gradient mode changes."""
    model, data, deleted = victim("cnn"), examples("cnn"), deletions(3)
    vectors = directions(model, 3)
    before = {name: value.clone() for name, value in model.parameters.items()}
    with torch.no_grad():
        together = CURVATURES[curvature](model.copies(3), data, deleted, SHIFT)(vectors)
    alone = [CURVATURES[curvature](model.copies(1), data, deleted[j, None], SHIFT)(vectors[j, None]) for j in range(3)]
    close(together, torch.cat(alone))
    assert not together.requires_grad
    assert not alone[0].requires_grad
    assert all(torch.equal(value, before[name]) and not value.requires_grad for name, value in model.parameters.items())


def test_dropout_is_the_identity() -> None:
    """Masks are buffers of ones: the curvature is that of the network without dropout, and the same in every call."""
    like = torch.zeros(1, dtype=torch.float64)
    with_dropout, without = (
        Victim(*initialise(partial(MLP, shape=(4,), classes=3, widths=[5], dropout=rate), 0, like)) for rate in (0.5, 0)
    )
    renamed = dict(zip(with_dropout.parameters, without.parameters.values(), strict=True))
    with_dropout = Victim(with_dropout.module, renamed, with_dropout.buffers)
    v, data, deleted = directions(without, 1), examples("mlp"), deletions(1)
    close(hessian(with_dropout.copies(1), data, deleted, 0.1)(v), hessian(without.copies(1), data, deleted, 0.1)(v))


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
