"""What every procedure owes its callers, with the defaults of its YAML."""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from data.digits import Digits
from experiments.cli.build import build
from models.logistic import Logistic
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.training import Training
from models.victim import ModelStack, Victim
from unlearning.certification.certificate import Certifying
from unlearning.procedure import Differentiable, Procedure, Request, Task, forget

CONF = Path(__file__).resolve().parents[2] / "conf" / "unlearning"
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "procedures.md").read_text(encoding="utf-8")
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
REQUEST = Request((3, 17, 40))


@cache
def procedure(name: str) -> Procedure:
    node = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(node, dict)
    found: Procedure = build({key: value for key, value in node.items() if key != "defaults"}, "unlearning")
    return found


@cache
def task(name: str) -> Task:
    data = Digits(train=200, test=1297).load()
    if name == "certified_removal":
        return Task(data.train, partial(Logistic, shape=data.shape, classes=10), Training(optimizer="newton"))
    return Task(data.train, partial(MLP, shape=data.shape, classes=10, widths=[8]), Training(epochs=3))


@cache
def victim(name: str) -> Victim:
    return procedure(name).learn(task(name), 0)


def everything(model: Victim | ModelStack) -> dict[str, Tensor]:
    kinds = ("parameters", "buffers", "history", "ledger")
    return {f"{kind} {name}": value.clone() for kind in kinds for name, value in getattr(model, kind).items()}


def row(*positions: int) -> Tensor:
    weights = torch.zeros(1, 200)
    weights[0, list(positions)] = 1
    return weights


@pytest.mark.parametrize("name", NAMES)
def test_forgetting_leaves_its_victim_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit, with the mode of its module and what requires a gradient, whatever they were."""
    model = victim(name)
    before = everything(model)
    monkeypatch.setattr(model.module, "training", True)
    monkeypatch.setattr(next(model.module.parameters()), "requires_grad", False)
    modules = [(module, module.training) for module in model.module.modules()]
    flags = [parameter.requires_grad for parameter in model.module.parameters()]
    unlearned = forget(procedure(name), task(name), model, REQUEST, 0)
    after = everything(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(module.training == mode for module, mode in modules)
    assert flags == [parameter.requires_grad for parameter in model.module.parameters()]
    assert unlearned.parameters.keys() == model.parameters.keys()
    assert unlearned.ledger.keys() == model.ledger.keys()
    assert all(unlearned.history[key] is value for key, value in model.history.items())  # shared, not copied
    assert all(bool(torch.isfinite(value).all()) for value in unlearned.parameters.values())


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"certified_removal"}))  # which is for linear models
def test_running_statistics_are_updated_where_the_page_says_so(name: str) -> None:
    """Of batch-norm: training on what is left updates them, steps on the parameters leave them alone."""
    [sentence] = re.findall(r"The running statistics of batch-norm.*?\.\n", PAGE, flags=re.DOTALL)
    data = Digits(train=200, test=1297).load()
    network = partial(SmallCNN, shape=data.shape, classes=10, widths=[4], norm="batch")
    of, these = procedure(name), Task(data.train, network, Training(epochs=1))
    model = of.learn(these, 0)
    before = {key: value.clone() for key, value in model.buffers.items()}
    after = forget(of, these, model, Request(tuple(range(20))), 0).buffers
    statistics = [key for key in before if "running_" in key]
    assert statistics
    assert all(torch.equal(model.buffers[key], value) for key, value in before.items())
    unchanged = [torch.equal(after[key], before[key]) for key in statistics]
    assert (not any(unchanged)) if f"`{name}`" in sentence.partition(";")[0] else all(unchanged)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_says_of_itself_is_so(name: str) -> None:
    """A gradient exists where it is promised; the victims have the architecture that is named; secrets differ."""
    of, model = procedure(name), victim(name)
    assert isinstance(of, Procedure)
    module = of.architecture(task(name))()
    assert {n for n, _ in module.named_parameters()} == model.parameters.keys()
    if of.differentiable:
        differentiable: Differentiable = of  # type: ignore[assignment]
        models = of.forget(task(name), model, row(3, 17), 0)
        slopes = differentiable.request_vjp(task(name), model, models, row(3, 17), torch.ones_like(models.flat()))
        assert slopes.shape == (1, 200)
        assert bool(torch.isfinite(slopes).all())
    # From learning on: certified_removal draws there, and again only where a request exceeds the budget.
    again = [model, of.learn(task(name), 0), of.learn(task(name), 0)]
    runs = [
        of.forget(task(name), start, row(*REQUEST.indices), seed).flat()
        for start, seed in zip(again, (0, 0, 1), strict=True)
    ]
    assert torch.equal(runs[0], runs[1]) != of.irreproducible
    assert torch.equal(runs[0], runs[2]) == (not of.stochastic)


@pytest.mark.parametrize("name", NAMES)
def test_requests_follow_one_another(name: str) -> None:
    """The second request is forgotten from the model that the first one left, and the task says what is gone."""
    of, first = procedure(name), Request((3,))
    once = forget(of, task(name), victim(name), first, 0)
    twice = forget(of, task(name).without(first), once, Request((17, 40)), 0)
    assert bool(torch.isfinite(twice.flat()).all())
    if of.exact:  # then it does not matter how the records came to be gone
        together = forget(of, task(name), victim(name), REQUEST, 0)
        assert torch.allclose(twice.flat(), together.flat(), atol=1e-5)
    if isinstance(of, Certifying):
        assert of.certificate(task(name), twice).describe()
