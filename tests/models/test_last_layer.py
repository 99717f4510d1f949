"""Only the last layer moves: blocks of dense matrices, and nothing outside."""

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from models.curvature import CURVATURES
from models.direct import curvature_matrix
from models.influence import inverse_curvature
from models.last_layer import features, from_last_layer, last_layer, only_last_layer, to_last_layer
from models.solver import Solver
from models.victim import Victim
from tests.models.problems import N, deletions, directions, examples, victim

ALL = pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "batch_norm"])


@ALL
def test_the_last_layer_is_the_head(name: str) -> None:
    model = victim(name)
    prefix = "linear" if name == "logistic" else "head"
    assert last_layer(model.parameters) == [f"{prefix}.weight", f"{prefix}.bias"]
    part = only_last_layer(model)
    assert list(part.parameters) == last_layer(model.parameters)
    assert torch.equal(part.logits(examples(name).x), model.logits(examples(name).x))
    together = only_last_layer(model.copies(2)).logits(examples(name).x)
    torch.testing.assert_close(together, model.logits(examples(name).x).expand(2, -1, -1), rtol=0, atol=1e-12)


@ALL
def test_vectors_go_there_and_back(name: str) -> None:
    model = victim(name)
    v = directions(model, 2)
    part = to_last_layer(v, model.parameters)
    assert part.shape == (2, sum(model.parameters[n].numel() for n in last_layer(model.parameters)))
    full = from_last_layer(part, model.parameters)
    assert full.shape == v.shape
    assert torch.equal(to_last_layer(full, model.parameters), part)
    assert torch.count_nonzero(full) == part.numel()


def block(name: str, curvature: str, deleted: Tensor, shift: float) -> Tensor:
    """The block of the dense matrix of all parameters, computed with all parameters."""
    model = victim(name)
    matrix = curvature_matrix(CURVATURES[curvature], model, examples(name), deleted, shift)
    ones = to_last_layer(torch.arange(len(matrix))[None], model.parameters)[0]
    return matrix[ones][:, ones]


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian", "fisher"])
@pytest.mark.parametrize("method", ["cg", "dense", "exact", "lissa", "woodbury"])
@pytest.mark.parametrize("name", ["mlp", "batch_norm"])
def test_every_method_inverts_the_block(name: str, method: str, curvature: str) -> None:
    """The head is linear, so its block of the Hessian is positive although the whole Hessian is not."""
    if method == "woodbury" and curvature != "fisher":
        with pytest.raises(ValueError, match=r"set solver.curvature=fisher"):
            Solver(method="woodbury", curvature=curvature)  # type: ignore[arg-type]
        return
    model, deleted = victim(name), deletions(2)
    vectors = directions(model, 2)
    solver = Solver(
        method=method, curvature=curvature, layers="last", damping=1.0, tolerance=1e-11, max_iterations=50_000, rank=N
    )  # type: ignore[arg-type]
    solution = inverse_curvature(solver, model.copies(2), examples(name), deleted, 0.02, vectors, base=model)
    right = to_last_layer(vectors, model.parameters)
    expected = torch.stack([torch.linalg.solve(block(name, curvature, deleted[j], 1.02), right[j]) for j in range(2)])
    assert (solution.x - from_last_layer(expected, model.parameters)).abs().max() < 1e-8
    assert (solution.residual <= 1.01e-11).all()


def test_factors_of_both_kinds_of_layers_do_not_mix() -> None:
    model, vectors = victim("mlp"), directions(victim("mlp"), 1)
    for layers in ("all", "last", "all"):
        solver = Solver(method="dense", damping=0.1, tolerance=1e-10, layers=layers)  # type: ignore[arg-type]
        solution = inverse_curvature(solver, model.copies(1), examples("mlp"), deletions(1), 0.0, vectors, base=model)
        assert solution.iterations <= 2  # nothing is deleted, so the factor is the inverse


@ALL
def test_features_are_what_the_head_is_linear_in(name: str) -> None:
    """Logits = features W' + b, whatever comes before, for models of one input and of many at once."""
    model, x = victim(name), examples(name).x
    weight, bias = (model.parameters[each] for each in last_layer(model.parameters))
    entering = features(model, x)
    torch.testing.assert_close(entering @ weight.T + bias, model.logits(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(features(model, x[:1]), entering[:1], rtol=0, atol=1e-12)


def test_a_last_layer_that_does_not_run_once_on_all_inputs_is_refused() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    module = Twice()
    model = Victim(module, {name: value.detach() for name, value in module.named_parameters()}, {})
    with pytest.raises(UserError, match=r"last layer layer does not run once on all inputs"):
        features(model, torch.zeros(2, 3))
