"""The diagonal of the Fisher information, against backpropagation of every label of every example."""

import pytest
import torch
from torch import Tensor

import models.fisher
from data.examples import Examples
from models.curvature import dense, gauss_newton
from models.fisher import diagonal_fisher
from models.gradients import per_example_gradients
from models.victim import Victim
from tests.models.problems import N, examples, victim

ALL = pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "batch_norm"])


def weights(r: int) -> Tensor:
    """Rows of weights, the first of which sees a single example."""
    drawn = torch.rand(r, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn[0] = 0
    drawn[0, 4] = 1
    return drawn


def by_labels(model: Victim, x: Tensor, c: Tensor) -> Tensor:
    """One backward pass for every label of every example."""
    probabilities, total = model.probabilities(x), torch.zeros(len(c), len(model.flat()), dtype=torch.float64)
    for y in range(3):
        gradients = per_example_gradients(model, Examples(x, torch.full((len(x),), y)))
        total += (c * probabilities[:, y]) @ gradients.square()
    return total


def close(left: Tensor, right: Tensor) -> None:
    assert left.shape == right.shape
    assert (left - right).abs().max() < 1e-10 * max(1, right.abs().max())


@ALL
@pytest.mark.parametrize("numbers", [1, 500, 2**26])
def test_every_label_of_every_example(name: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of examples that are held at once."""
    monkeypatch.setattr(models.fisher, "NUMBERS", numbers)
    model, data = victim(name), examples(name)
    close(diagonal_fisher(model, data, weights(3)), by_labels(model, data.x, weights(3)))


@ALL
def test_is_the_diagonal_of_the_gauss_newton_matrix(name: str) -> None:
    """For cross-entropy the two matrices are one."""
    model, data = victim(name), examples(name)

    def product(rows: Tensor) -> Tensor:
        nothing = torch.zeros(len(rows), N, dtype=torch.float64)
        return gauss_newton(model.copies(len(rows)), data, nothing, 0.0)(rows)

    matrix = dense(product, len(model.flat()), model.flat())
    close(diagonal_fisher(model, data, torch.full((1, N), 1 / N, dtype=torch.float64))[0], matrix.diagonal())


def test_softmax_regression_has_a_closed_form() -> None:
    """d log p_y / d W_kj = (1[y = k] - p_k) x_j, so the sum over y is p_k (1 - p_k) x_j^2."""
    model, data = victim("logistic"), examples("logistic")
    p = model.probabilities(data.x)
    spread = p * (1 - p)
    expected = torch.cat([torch.einsum("nk,nj->kj", spread, data.x.square()).flatten(), spread.sum(0)])
    found = diagonal_fisher(model, data, torch.ones(1, N, dtype=torch.float64))[0]
    assert (found - expected).abs().max() < 1e-8


def test_labels_are_not_used_and_the_model_is_left_alone() -> None:
    model, data = victim("batch_norm"), examples("batch_norm")
    before = {name: value.clone() for name, value in (model.parameters | model.buffers).items()}
    found = diagonal_fisher(model, data, weights(2))
    assert torch.equal(found, diagonal_fisher(model, Examples(data.x, (data.y + 1) % 3), weights(2)))
    assert all(torch.equal(value, before[name]) for name, value in (model.parameters | model.buffers).items())
    assert not found.requires_grad
