"""The victim's architecture from its configuration: what fits is built, and what does not is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data.digits import Digits
from data.errors import UserError
from data.randomness import seeded
from experiments.cli.build import build
from experiments.play.architecture import Architecture, architecture_of
from experiments.play.setup import prepare, resolved
from tests.experiments.games import config

DATA = Digits(train=100, test=1397).load()
HERE = __name__
OURS = {"mlp": "models.mlp.MLP", "cnn": "models.small_cnn.SmallCNN", "resnet": "models.resnet.ResNet9",
        "logistic": "models.logistic.Logistic"}  # fmt: skip


class Plain(nn.Module):
    """Takes nothing that the data know."""

    def __init__(self, width: int = 8, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, width), nn.Linear(width, 10)
        self.inner = inner or nn.Tanh()

    def forward(self, x: torch.Tensor) -> Any:
        """Logits."""
        return self.b(self.inner(self.a(x.flatten(1))))


class Passing(Plain):
    """Hands on whatever it gets."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


class Greedy(Plain):
    """Changes the list that it is given."""

    def __init__(self, *, widths: list[int]) -> None:
        widths.append(16)
        super().__init__(sum(widths))


class Needy(Plain):
    """Needs an option."""

    def __init__(self, *, shape: Any, classes: int, depth: int) -> None:
        super().__init__(depth)


class Broken(Plain):
    """Fails when it is built."""

    def __init__(self, *, classes: int) -> None:
        raise RuntimeError(f"no weights for {classes} classes.\nSee elsewhere")


class Counted(nn.Module):
    """A perceptron that counts what it cannot count without numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
        self.b = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> Any:
        """Logits."""
        return self.b(x.flatten(1))


def function(shape: Any, classes: int) -> nn.Module:
    """Not a class."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def no_module(classes: int) -> int:
    """Not a model."""
    return classes


def node(target: str, **options: Any) -> dict[str, Any]:
    return {"_target_": target if "." in target else f"{HERE}.{target}", **options}


@pytest.mark.parametrize(
    "described",
    [node("Plain"), node("Plain", width=3, _partial_=True), node("Passing"), node("Passing", width=5), node("function"),
     node("Greedy", widths=[2]), node("Counted"), node("Plain", inner=node("torch.nn.ReLU")),
     node(OURS["mlp"], widths=[4]), node(OURS["mlp"], widths=[]), node(OURS["mlp"], widths=(3, 2))],
)  # fmt: skip
def test_what_can_be_built_is(described: dict[str, Any]) -> None:
    make, module = architecture_of(described, DATA)
    assert module(DATA.test.x[:2]).shape == (2, 10)
    again = make()
    assert [value.shape for value in again.parameters()] == [value.shape for value in module.parameters()]


def test_parts_in_the_configuration_are_drawn_with_the_model() -> None:
    make = architecture_of(node("Plain", inner=node("torch.nn.Linear", in_features=8, out_features=8)), DATA)[0]
    drawn = []
    for seed in (0, 0, 1):
        with seeded(seed):
            drawn.append(next(make().inner.parameters()))  # type: ignore[union-attr, arg-type]
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0] is not drawn[1]
    assert not torch.equal(drawn[0], drawn[2])


HUGE = 10**12
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (node(OURS["mlp"], depth=3), r"no option 'depth'; its options are widths, activation, dropout"),
    "of another": (node("Plain", widths=[3], activation="tanh"), r"'~model.widths' '~model.activation'"),
    "for logistic": (node(OURS["logistic"], widths=[3]), "it has no options"),
    "handed on": (node("Passing", depth=3), "no option 'depth'"),
    "missing": (node("Needy"), "a value is needed for 'depth'"),
    "broken": (node("Broken"), r"cannot be built for examples of shape \(1, 8, 8\) and 10 classes"),
    "no module": (node("no_module"), "must give a torch.nn.Module"),
    "no such class": (node("Nothing"), "cannot load"),
    "no target": ({"widths": [3]}, "must be a component with a _target_"),
    "no list": (node(OURS["mlp"], widths=8), r"model.widths must be a list of integers.* got 8"),
    "null": (node(OURS["mlp"], widths=None), "model.widths must be a list of integers.* got None"),
    "empty text": (node(OURS["mlp"], widths=""), "model.widths must be a list of integers.* got ''"),
    "text": (node(OURS["cnn"], widths="ab"), "model.widths must be a list"),
    "a number for a list": (node(OURS["cnn"], widths=8), "model.widths must be a list"),
    "a list of text": (node(OURS["mlp"], widths=["a"]), "model.widths must hold integers of at least 1, got 'a'"),
    "a truth value": (node(OURS["mlp"], widths=[True]), "at least 1, got True"),
    "a fraction": (node(OURS["resnet"], width=1.5), "model.width must hold integers"),
    "a list for a number": (node(OURS["resnet"], width=[8]), "model.width must hold integers"),
    "dropout of text": (node(OURS["mlp"], dropout="x"), "model.dropout='x' must be a number"),
    "dropout null": (node(OURS["mlp"], dropout=None), "model.dropout=None must be a number"),
    "dropout of 2": (node(OURS["mlp"], dropout=2), "model.dropout=2 must be"),
    "dropout nan": (node(OURS["mlp"], dropout=float("nan")), "model.dropout=nan must be"),
    "dropout true": (node(OURS["mlp"], dropout=True), "model.dropout.* must be"),
    "activation of numbers": (node(OURS["mlp"], activation=[1]), "model.activation=.*choose tanh or relu"),
    "norm null": (node(OURS["cnn"], norm=None), "model.norm=None is unknown; choose group, batch or none"),
    "huge": (node(OURS["mlp"], widths=[HUGE]), "at most 2,147,483,647.*gigabytes"),
    "absurd": (node(OURS["mlp"], widths=[10**30]), "model.widths must"),
    "large": (node(OURS["mlp"], widths=[2 * 10**9]), r"150,\d+,\d+,\d+ parameters take 2,\d+ GB.* memory; choose"),
    "large together": (node(OURS["mlp"], widths=[10**6, 10**6]), "parameters take 16,001 GB in training"),
    "own and large": (node("Plain", width=10**11), "parameters take .* GB in training"),
    "own and larger": (node("Plain", width=10**15), "parameters take .* GB in training"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistake_is_one_sentence(name: str) -> None:
    described, words = WRONG[name]
    with pytest.raises(UserError, match=words) as raised:
        architecture_of(described, DATA)
    assert "\n" not in str(raised.value)


def test_a_game_tries_an_own_model_and_leaves_the_generators(tmp_path: Path) -> None:
    settings = config(tmp_path, "unlearning=first_order")
    before = torch.get_rng_state()
    setup = prepare({**settings, "model": node("Plain", width=4)})
    assert isinstance(setup.task.build, Architecture)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UserError, match=r"model: .*returns \(2, 1, 8, 8\)"):
        prepare({**settings, "model": node("torch.nn.Linear", in_features=8, out_features=8, _partial_=True)})


def test_derivatives_are_asked_for_where_somebody_takes_them(tmp_path: Path) -> None:
    def needed(*overrides: str) -> bool:
        game, parts = resolved(config(tmp_path, *overrides))
        return game.differentiates(*(build(parts[group], group) for group in ("attack", "unlearning", "defense")))

    assert not needed("attack=random", "unlearning=retrain", "defense=none")
    assert needed("attack=random", "unlearning=retrain", "defense=influence")
    assert needed("attack=random", "unlearning=first_order", "defense=none")
    assert needed("attack=uncertainty", "attack.access=white_box", "unlearning=retrain", "defense=none")
