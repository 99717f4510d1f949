"""Pruned models: what is zero stays zero, and gradients, curvature and training are about what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data.randomness import generator
from models.curvature import CURVATURES
from models.direct import curvature_matrix
from models.fisher import diagonal_fisher
from models.gradients import (
    inner_products,
    inner_products_many,
    objective_gradient,
    per_example_gradients,
    weighted_gradient,
)
from models.influence import inverse_curvature
from models.last_layer import only_last_layer
from models.mlp import MLP
from models.named_tensors import ensemble_of, tensors_of, victim_of
from models.solver import Solver
from models.training import Training, fresh, train
from models.victim import ModelStack, Victim, concatenate, flatten, stack
from tests.models.problems import BUILDS, N, deletions, directions, examples, victim


def a_mask(of: Victim, seed: int = 0, share: float = 0.5) -> dict[str, Tensor]:
    """About `share` of every weight is left; biases are dense, so that their names have no mask."""
    rng = generator(seed, "mask")
    matrices = {name: value for name, value in of.moving.items() if value.dim() > 1}
    return {name: (torch.rand(value.shape, generator=rng) < share).to(value) for name, value in matrices.items()}


def sparse(name: str, seed: int = 0) -> Victim:
    dense = victim(name, seed)
    return replace(dense, mask=a_mask(dense, seed))


def left(model: Victim) -> Tensor:
    """Positions of the parameters (p,) that are left."""
    return flatten({n: model.mask.get(n, torch.ones_like(v)) for n, v in model.moving.items()}).nonzero()[:, 0]


def keeps_its_zeros(models: Victim | ModelStack, mask: dict[str, Tensor]) -> bool:
    return all(bool((models.parameters[name][..., value == 0] == 0).all()) for name, value in mask.items())


VERBS: dict[str, Callable[[Victim], Victim | ModelStack]] = {
    "itself": lambda model: model,
    "clone": lambda model: model.clone(),
    "moved": lambda model: model.moved(directions(model, 3)),
    "copies": lambda model: model.copies(3),
    "select": lambda model: model.moved(directions(model, 3)).select(torch.tensor([2, 0])),
    "slice": lambda model: model.moved(directions(model, 3)).select(slice(1, 3)),
    "one of many": lambda model: model.moved(directions(model, 3))[1],
    "stack": lambda model: stack([model, model.moved(directions(model, 1))[0]]),
    "concatenate": lambda model: concatenate([model.copies(2), model.moved(directions(model, 1))]),
    "other parameters": lambda model: replace(model, parameters={n: v + 1 for n, v in model.parameters.items()}),
    "kept and read": lambda model: victim_of(tensors_of(model), model.module, torch.device("cpu")),
    "many kept and read": lambda model: ensemble_of(tensors_of(model.moved(directions(model, 2))), model),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", BUILDS)
def test_whatever_moves_a_model_keeps_its_mask(name: str, verb: str) -> None:
    model = sparse(name)
    after = VERBS[verb](model)
    assert keeps_its_zeros(after, model.mask)
    assert after.mask.keys() == model.mask.keys()
    for key, value in model.mask.items():
        assert bool((after.mask[key] == value).all())
        assert after.mask[key].shape == after.parameters[key].shape


def test_every_model_of_a_stack_has_its_own_mask() -> None:
    both = stack([sparse("mlp", 0), sparse("mlp", 1), victim("mlp", 2)])
    assert torch.equal(both.flat(), torch.stack([m.flat() for m in (sparse("mlp", 0), sparse("mlp", 1), both[2])]))
    assert torch.equal(both[2].flat(), victim("mlp", 2).flat())
    moved = replace(both, parameters={name: value + 1 for name, value in both.moving.items()})
    assert all(keeps_its_zeros(moved[j], sparse("mlp", j).mask) for j in range(2))
    assert bool((moved[2].flat() == victim("mlp", 2).flat() + 1).all())
    pruned = moved.pruned(torch.ones_like(moved.flat()))
    assert all(pruned[j].nonzero()[:, 0].tolist() == left(sparse("mlp", j)).tolist() for j in range(2))


def test_a_dense_model_has_no_mask_and_nothing_of_it_in_the_store() -> None:
    model = victim("mlp")
    assert not any(name.startswith("mask/") for name in tensors_of(model))
    vectors = directions(model, 2)
    assert model.pruned(vectors) is vectors
    assert model.copies(2).pruned(vectors) is vectors


def test_a_mask_of_something_else_is_refused() -> None:
    model = victim("mlp")
    name = next(iter(model.moving))
    for wrong, said in (({"nothing": torch.ones(2)}, "no parameter"), ({name: torch.ones(1, 1)}, r"shape \(1, 1\)")):
        with pytest.raises(ValueError, match=said):
            replace(model, mask=wrong)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn"])
def test_gradients_are_about_what_is_left(name: str) -> None:
    """Those of the dense model with the same parameters, with zeros where it is pruned."""
    model, data, weights = sparse(name), examples(name), deletions(2)
    dense, v = replace(model, mask={}), directions(model, 2)
    gone = torch.ones(len(model.flat()), dtype=torch.bool)
    gone[left(model)] = False
    pairs = [
        (weighted_gradient(model, data, weights), weighted_gradient(dense, data, weights)),
        (per_example_gradients(model, data), per_example_gradients(dense, data)),
        (objective_gradient(model, data, weights, 0.1), objective_gradient(dense, data, weights, 0.1)),
    ]
    for own, other in pairs:
        assert bool((own[:, gone] == 0).all())
        assert torch.equal(own[:, ~gone], other[:, ~gone])
    g = per_example_gradients(dense, data)[:, ~gone]
    torch.testing.assert_close(inner_products(model, data, v[0]), g @ v[0, ~gone])
    torch.testing.assert_close(inner_products_many(model.copies(2), data, v), v[:, ~gone] @ g.T)
    assert diagonal_fisher(model, data, weights).shape == v.shape


@pytest.mark.parametrize("curvature", CURVATURES)
def test_curvature_is_the_block_of_what_is_left(curvature: str) -> None:
    model, data, weights = sparse("mlp"), examples("mlp"), deletions(1)[0]
    rows, make = left(model), CURVATURES[curvature]
    own = curvature_matrix(make, model, data, weights, 0.3)
    whole = curvature_matrix(make, replace(model, mask={}), data, weights, 0.3)
    expected = 0.3 * torch.eye(len(own), dtype=own.dtype)
    expected[rows[:, None], rows] = whole[rows[:, None], rows]
    torch.testing.assert_close(own, expected)


SOLVERS = [
    {"method": "cg"}, {"method": "dense"}, {"method": "exact"}, {"method": "lissa", "scale": 40.0},
    {"method": "cg", "preconditioner": "nystroem", "rank": 5}, {"method": "cg", "preconditioner": "diagonal"},
    {"method": "cg", "preconditioner": "subsample"}, {"method": "woodbury", "curvature": "fisher", "rank": N},
    {"method": "cg", "layers": "last"},
]  # fmt: skip


@pytest.mark.parametrize("options", SOLVERS, ids=str)
def test_solutions_solve_the_system_of_what_is_left(options: dict[str, Any]) -> None:
    model, data, weights = sparse("mlp"), examples("mlp"), deletions(2)
    v, solver = (
        directions(model, 2),
        Solver(**{"damping": 1.0, "tolerance": 1e-12, "max_iterations": 20_000, **options}),
    )
    found = inverse_curvature(solver, model.copies(1), data, weights, 0.0, v, base=model).x
    rows, names = left(model), only_last_layer(model).moving
    if options.get("layers") == "last":
        last = sum(value.numel() for value in names.values())
        rows = rows[rows >= len(model.flat()) - last]
    expected = torch.zeros_like(found)
    for j, row in enumerate(weights):
        matrix = curvature_matrix(CURVATURES[solver.curvature], replace(model, mask={}), data, row, 1.0)
        expected[j, rows] = torch.linalg.solve(matrix[rows[:, None], rows], v[j, rows])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert bool((model.pruned(found) == found).all())


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(["sgd", "adam", "newton"]), st.integers(1, 3), st.integers(0, 5))
def test_training_from_a_pruned_model_moves_only_what_is_left(optimizer: Any, count: int, seed: int) -> None:
    """In every step, not only at the end; Newton's method ends at the stationary point of what is left."""
    name = "logistic" if optimizer == "newton" else "mlp"
    model, data = sparse(name, seed), examples(name)
    recipe = Training(optimizer=optimizer, epochs=3, batch_size=5, lr=0.05, weight_decay=0.1)
    seen: list[bool] = []

    def watch(_: Any, values: Any) -> None:
        now = dict(zip(model.moving, values, strict=True))
        seen.append(all(bool((now[key][..., value == 0] == 0).all()) for key, value in model.mask.items()))

    weights = deletions(count)
    trained = train(BUILDS[name], data, recipe, list(range(count)), weights, model.copies(count), watch=watch)
    assert keeps_its_zeros(trained, model.mask)
    assert all(seen)
    assert len(seen) == (0 if optimizer == "newton" else 9)
    assert bool((trained.flat()[:, left(model)] != model.flat()[left(model)]).any())
    if optimizer == "newton":
        for j in range(count):
            assert objective_gradient(trained[j], data, weights[j, None], 0.1).norm() < 1e-9


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_pruned_network_is_the_smaller_network(optimizer: Any) -> None:
    """Without hidden unit 0, whose weights are pruned on both sides, training is that of the network that lacks it."""
    data = examples("mlp")
    recipe = Training(optimizer=optimizer, epochs=4, batch_size=5, lr=0.05)
    start = fresh(partial(MLP, shape=(4,), classes=3, widths=[5]), [0], data.x)[0]
    first, bias, second, _ = start.moving
    mask = {name: torch.ones_like(start.moving[name]) for name in (first, bias, second)}
    mask[first][0], mask[bias][0], mask[second][:, 0] = 0, 0, 0
    pruned = replace(start, mask=mask)
    small = partial(MLP, shape=(4,), classes=3, widths=[4])
    cut = {first: pruned.moving[first][1:], bias: pruned.moving[bias][1:], second: pruned.moving[second][:, 1:]}
    less = Victim(fresh(small, [0], data.x).module, {**pruned.moving, **cut}, {})
    large = train(partial(MLP, shape=(4,), classes=3, widths=[5]), data, recipe, [3], None, pruned.copies(1))
    little = train(small, data, recipe, [3], None, less.copies(1))
    torch.testing.assert_close(large.logits(data.x), little.logits(data.x), rtol=1e-9, atol=1e-12)
