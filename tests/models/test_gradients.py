"""Gradients of single examples, against backpropagation one by one and finite differences."""

import pytest
import torch
from torch import Tensor

import models.gradients
from models.gradients import (
    gradient_norms,
    inner_products,
    inner_products_many,
    input_gradients,
    losses,
    objective_gradient,
    own_input_gradients,
    per_example_gradients,
    weighted_gradient,
)
from models.victim import Victim, stack
from tests.models.problems import N, deletions, directions, examples, gradient_by_autograd, victim

ALL = pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "batch_norm"])


def one_by_one(model: Victim, name: str) -> Tensor:
    """grad l_i from reverse mode on single examples, (n, p); independent of models.gradients."""
    data = examples(name)
    keep_only = 1 - torch.eye(N, dtype=torch.float64)
    return torch.stack([N * gradient_by_autograd(model, data, keep_only[i], 0.0) for i in range(N)])


def close(left: Tensor, right: Tensor) -> None:
    assert left.shape == right.shape
    assert (left - right).abs().max() < 1e-10 * max(1, right.abs().max())


@ALL
def test_per_example_gradients(name: str) -> None:
    model = victim(name)
    expected = one_by_one(model, name)
    found = per_example_gradients(model, examples(name))
    close(found, expected)
    assert not found.requires_grad
    for chunk in (1, 5, 256):
        close(gradient_norms(model, examples(name), chunk), expected.norm(dim=1))


@ALL
@pytest.mark.parametrize("chunk", [1, 5, 8192])
def test_inner_products(name: str, chunk: int) -> None:
    model = victim(name)
    v = directions(model, 1)[0]
    close(inner_products(model, examples(name), v, chunk), one_by_one(model, name) @ v)


@ALL
@pytest.mark.parametrize("chunk", [1, 7, 8192])
def test_inner_products_of_many_models(name: str, chunk: int) -> None:
    """Each model with its own parameters, buffers and direction."""
    victims = [victim(name, seed) for seed in range(3)]
    v = directions(victims[0], 3)
    expected = torch.stack([one_by_one(model, name) @ v[j] for j, model in enumerate(victims)])
    close(inner_products_many(stack(victims), examples(name), v, chunk), expected)


@ALL
@pytest.mark.parametrize("chunk", [1, 5, 8192])
@pytest.mark.parametrize("m", [1, 3])
def test_weighted_gradient(name: str, chunk: int, m: int) -> None:
    model = victim(name)
    weights = torch.randn(m, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    close(weighted_gradient(model, examples(name), weights, chunk), weights @ one_by_one(model, name))


def test_memory_of_a_weighted_gradient_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`chunk` counts examples times rows; rows that share few examples go one by one, and none sees weights of zero."""
    seen: list[int] = []
    original = models.gradients.losses

    def counted(*args: object) -> Tensor:
        values: Tensor = original(*args)  # type: ignore[arg-type]
        seen.append(len(values))
        return values

    monkeypatch.setattr(models.gradients, "losses", counted)
    weighted_gradient(victim("mlp"), examples("mlp"), 1 + deletions(3), chunk=12)
    assert seen == [4, 4, 4]
    seen.clear()
    rows = torch.zeros(3, N, dtype=torch.float64)
    rows[0, :5], rows[2, 5:7] = 1, 2
    weighted_gradient(victim("mlp"), examples("mlp"), rows, chunk=12)
    assert seen == [5, 2]
    assert not weighted_gradient(victim("mlp"), examples("mlp"), torch.zeros_like(rows)).any()


@ALL
def test_objective_gradient(name: str) -> None:
    """(1/n) sum (1 - w_i) g_i + lambda theta, with n of the original training set."""
    model, data, deleted = victim(name), examples(name), deletions(3)
    expected = torch.stack([gradient_by_autograd(model, data, row, 0.3) for row in deleted])
    close(objective_gradient(model, data, deleted, 0.3), expected)
    everything = torch.ones(1, N, dtype=torch.float64)
    close(objective_gradient(model, data, everything, 0.3), 0.3 * model.flat()[None])


def test_full_gradient_does_not_depend_on_the_batch_size() -> None:
    """In single precision: 1e-6 relative."""
    model, data = victim("mlp"), examples("mlp", 5000)
    single = Victim(model.module, {name: value.float() for name, value in model.parameters.items()}, {})
    weights, data = torch.full((1, 5000), 1 / 5000), type(data)(data.x.float(), data.y)
    seen = [weighted_gradient(single, data, weights, chunk) for chunk in (1, 10, 128, 5000)]
    assert all((other - seen[0]).norm() <= 1e-6 * seen[0].norm() for other in seen)
    assert seen[0].dtype == torch.float32


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_input_gradients_by_finite_differences(name: str) -> None:
    """Central differences with h = 1e-5: truncation 1e-10 and rounding 1e-16 / 1e-5, times constants below 100."""
    model, data = victim(name), examples(name)
    v = directions(model, 1)[0]
    found = input_gradients(model, data, v)
    for k in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[k] = 1e-5
        up, down = (inner_products(model, type(data)(data.x + sign * shift, data.y), v) for sign in (1, -1))
        assert ((up - down) / 2e-5 - found[:, k]).abs().max() < 1e-8


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_memory_of_input_gradients_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is the graph of a way back: a pass of fewer than a plain one has, and the result does not depend on it."""
    model, data, seen = victim(name), examples(name), []
    v, own = directions(model, 1)[0], directions(model, N)
    whole = [input_gradients(model, data, v), own_input_gradients(model, data, own)]
    close(whole[1], torch.stack([input_gradients(model, data[i : i + 1], row)[0] for i, row in enumerate(own)]))
    cross_entropy = models.gradients.F.cross_entropy

    def counted(logits: Tensor, *given: object, **settings: object) -> Tensor:
        seen.append(len(logits))
        return cross_entropy(logits, *given, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(models.gradients.F, "cross_entropy", counted)
    monkeypatch.setattr(models.gradients, "CHUNK", 3 * models.gradients.GRAPH)
    monkeypatch.setattr(models.gradients, "NUMBERS", 3 * models.gradients.GRAPH * len(v))
    for found, expected in zip(
        [input_gradients(model, data, v), own_input_gradients(model, data, own)], whole, strict=True
    ):
        close(found, expected)
    assert max(seen) == 3


def test_losses_are_those_of_the_probabilities() -> None:
    model, data = victim("mlp"), examples("mlp")
    expected = -model.probabilities(data.x)[torch.arange(N), data.y].log()
    close(losses(model.module, model.parameters, model.buffers, data.x, data.y), expected)


def test_nothing_of_the_victim_changes() -> None:
    model, data = victim("batch_norm"), examples("batch_norm")
    before = {name: value.clone() for name, value in (model.parameters | model.buffers).items()}
    v = directions(model, 1)[0]
    inner_products(model, data, v)
    objective_gradient(model, data, deletions(2), 0.1)
    input_gradients(model, data, v)
    assert all(torch.equal(value, before[name]) for name, value in (model.parameters | model.buffers).items())
    assert not any(value.requires_grad for value in model.parameters.values())
