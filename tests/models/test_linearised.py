"""What products hold, and one model that serves many rows."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import models.curvature
import models.linearised
from data.examples import Examples
from models.curvature import CURVATURES, gauss_newton
from models.last_layer import only_last_layer
from models.passes import activations, room
from models.resnet import ResNet9
from models.training import initialise
from models.victim import Victim, stack
from tests.models.problems import N, deletions, directions, examples, victim
from tests.models.test_curvature import ALL, SHIFT, close


def _counted(of_every: Callable[..., Callable[..., Tensor]], passes: list[int]) -> Callable[..., Callable[..., Tensor]]:
    """The same, noting the number of examples of every pass in `passes`."""

    def make(function: object, m: int) -> Callable[..., Tensor]:
        run = of_every(function, m)

        def counted(parameters: object, buffers: object, x: Tensor, y: Tensor) -> Tensor:
            passes.append(len(x))
            return run(parameters, buffers, x, y)

        return counted

    return make


@ALL
@pytest.mark.parametrize("curvature", list(CURVATURES))
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_held_product_is_the_same(name: str, curvature: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every call, with room for none, half or all of the examples; what is held is not passed forward again.

    (Dual numbers, which serve many convolutions, hold nothing.)
    """
    victims, data, deleted = [victim(name, seed) for seed in range(2)], examples(name), deletions(2)
    models_, vectors = stack(victims), directions(victims[0], 2)
    plain = CURVATURES[curvature](models_, data, deleted, SHIFT)
    passes: list[int] = []
    monkeypatch.setattr(models.curvature, "CHUNK", 2 * 2)  # two models, two examples
    chunk = len(models_) * (3 * 2 * activations(models_, data.x) + vectors.shape[1])
    monkeypatch.setattr(models.curvature, "HELD", (share * N / 2 + 1e-6) * chunk / room(data.x.device))
    monkeypatch.setattr(models.linearised, "_of_every", _counted(models.linearised._of_every, passes))
    held = CURVATURES[curvature](models_, data, deleted, SHIFT, hold=True)
    for scale in (1.0, -2.0, 0.0):
        close(held(scale * vectors), plain(scale * vectors))
    again = N - 2 * int(share * N / 2)
    assert sum(passes) == N + 2 * again


def test_convolutions_that_do_not_move_are_no_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the last layer moves, their products are held like any other."""
    passes: list[int] = []
    monkeypatch.setattr(models.linearised, "FEW", 0)
    monkeypatch.setattr(models.linearised, "_of_every", _counted(models.linearised._of_every, passes))
    last = only_last_layer(victim("cnn"))
    product = gauss_newton(last.copies(1), examples("cnn"), deletions(1), SHIFT, hold=True)
    assert torch.equal(product(directions(last, 1)), product(directions(last, 1)))
    assert passes == [N]


@ALL
@pytest.mark.parametrize("curvature", list(CURVATURES))
@pytest.mark.parametrize("chunk", [1, 2 * N, 10_000])
@pytest.mark.parametrize("hold", [False, True])
def test_one_model_serves_all_rows(
    name: str, curvature: str, chunk: int, hold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights of their own or one row of them, one, two or all rows of vectors going back at once."""
    model, data, deleted = victim(name), examples(name), deletions(5)
    vectors, make = directions(model, 5), CURVATURES[curvature]
    own = make(model.copies(5), data, deleted, SHIFT)(vectors)
    same = make(model.copies(5), data, deleted[1].expand(5, -1), SHIFT)(vectors)
    monkeypatch.setattr(models.curvature, "CHUNK", chunk)
    close(make(model.copies(1), data, deleted, SHIFT, hold)(vectors), own)
    product = make(model.copies(1), data, deleted[1, None], SHIFT, hold)
    close(product(vectors), same)
    close(product(vectors[:1]), same[:1])


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("curvature", list(CURVATURES))
def test_one_residual_network_serves_all_rows(norm: str, curvature: str) -> None:
    build = partial(ResNet9, shape=(1, 8, 8), classes=3, width=2, norm=norm)
    like = torch.zeros(1, dtype=torch.float64)
    model, rng = Victim(*initialise(build, 0, like)), torch.Generator().manual_seed(1)
    data = Examples(torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=rng), torch.arange(6) % 3)
    deleted, vectors, make = (
        torch.rand(3, 6, dtype=torch.float64, generator=rng),
        directions(model, 3),
        CURVATURES[curvature],
    )
    own = make(model.copies(3), data, deleted, SHIFT)(vectors)
    close(make(model.copies(1), data, deleted, SHIFT, hold=True)(vectors), own)
