"""The worst inputs near given ones: against closed forms for linear models, and for many models at once."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from attacks.crafting.functionals import margins
from attacks.crafting.objective import RobustnessObjective
from attacks.crafting.perturbation import Nearby, Perturbation
from attacks.crafting.white_box import WhiteBoxObjective
from data.randomness import generator
from models import passes
from models.logistic import Logistic
from models.mlp import MLP
from models.training import initialise
from models.victim import ModelStack, Victim, concatenate
from tests.attacks.checks import bed, opened
from unlearning.first_order import FirstOrder

MANY = 60


def weights_of(victim: Victim) -> tuple[Tensor, Tensor]:
    """The matrix (K, d) and the biases (K,) of a linear model."""
    bias, weight = sorted(victim.moving.values(), key=lambda value: value.dim())
    return weight, bias


def vertices(nearby: Nearby, x: Tensor) -> Tensor:
    """Every corner (2^d, d) of what linf allows around `x` (d,)."""
    radius = nearby.perturbation.radius
    low, high = torch.maximum(x - radius, nearby.low[0]), torch.minimum(x + radius, nearby.high[0])
    corners = torch.tensor(list(product((0.0, 1.0), repeat=len(x))), dtype=x.dtype)
    return low + corners * (high - low)


@pytest.mark.parametrize("radius", [0.05, 0.1, 0.2])
def test_linf_against_every_corner_of_a_linear_model(radius: float) -> None:
    """Cross-entropy is convex in e, so its maximum is at a corner, of which there are 1024.

    Of three classes it has several local maxima, so that ascent on it does not find the best corner of every target,
    and what it says of labels is sound and not complete. Ascent towards each rival is exact.
    """
    of = bed(0)
    x, labels = of.test.x[:MANY], of.victim.logits(of.test.x[:MANY]).argmax(-1)
    logits = [of.victim.logits(vertices(nearby_of(radius, 0), each)) for each in x]
    pairs = list(zip(logits, labels, strict=True))
    best = torch.stack([-each.log_softmax(-1)[:, label].min() for each, label in pairs])
    lowest = torch.stack([margins(each, label.expand(len(each))).min() for each, label in pairs])
    after = {
        rivals: of.victim.logits(nearby_of(radius, rivals).worst([of.victim.copies(1)], x[None], labels[None])[0])
        for rivals in (0, 2)
    }
    gap = best + after[0].log_softmax(-1).gather(1, labels[:, None])[:, 0]
    said = after[0].argmax(-1) != labels
    print(f"radius {radius}: best corner {int((gap < 1e-9).sum())} of {MANY}, largest gap {float(gap.max()):.1e} nats;")
    print(f"labels lost: {int(said.sum())} by ascent on the loss, {int((lowest < 0).sum())} by the closed form")
    assert bool((gap >= -1e-12).all())
    assert float((gap < 1e-9).double().mean()) > 0.9
    assert bool((~said | (lowest < 0)).all())
    torch.testing.assert_close(margins(after[2], labels), lowest, rtol=1e-12, atol=1e-12)


def nearby_of(radius: float, rivals: int) -> Nearby:
    return Perturbation(radius=radius, steps=50, rivals=rivals).within(bed(0).task.records.x)


def test_two_classes_have_closed_forms_in_both_norms() -> None:
    """e = -rho sign(u) or -rho u/||u|| for u = w_y - w_k: the margin falls by rho ||u||_1 or rho ||u||_2."""
    torch.manual_seed(0)
    build = partial(Logistic, shape=(6,), classes=2)
    victim = Victim(*initialise(build, 0, torch.zeros(2, 6, dtype=torch.float64)))
    x, labels = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 2
    weight, _ = weights_of(victim)
    for norm, order in (("linf", 1), ("l2", 2)):
        nearby = Perturbation(norm=norm, radius=0.3, steps=20).within(torch.tensor([[-99.0], [99.0]]).expand(2, 6))
        worst = nearby.worst([victim.copies(1)], x[None], labels[None])[0]
        fall = margins(victim.logits(x), labels) - margins(victim.logits(worst), labels)
        expected = 0.3 * torch.linalg.vector_norm(weight[0] - weight[1], order)
        torch.testing.assert_close(fall, expected.expand(20).double(), rtol=1e-9, atol=1e-9)


def stack(count: int) -> tuple[ModelStack, Tensor, Tensor]:
    """Perceptrons, with inputs of their own."""
    build = partial(MLP, shape=(5,), classes=3, widths=[7])
    models = [Victim(*initialise(build, seed, torch.zeros(2, 5, dtype=torch.float64))) for seed in range(count)]
    rng = generator(0, "inputs")
    x = torch.randn(count, 4, 5, generator=rng, dtype=torch.float64)
    return concatenate([each.copies(1) for each in models]), x, torch.randint(3, (count, 4), generator=rng)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_many_models_get_what_each_gets_alone(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in passes of little memory; within radius and box, and never better for the model than the input itself."""
    models, x, labels = stack(3)
    nearby = Perturbation(norm=norm, radius=0.4).within(x.flatten(0, 1))  # type: ignore[arg-type]
    together = nearby.worst([models], x, labels)
    for i in range(3):
        alone = nearby.worst([models.select(slice(i, i + 1))], x[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
    p = nearby.probabilities([models], x[0], labels[0])
    monkeypatch.setattr(passes, "ACTIVATIONS", 40)
    torch.testing.assert_close(nearby.worst([models], x, labels), together)
    torch.testing.assert_close(nearby.probabilities([models], x[0], labels[0]), p)
    moved = together - x
    size = moved.abs().amax(-1) if norm == "linf" else moved.norm(dim=-1)
    assert float(size.max()) <= 0.4 + 1e-12
    assert bool(((together >= nearby.low - 1e-12) & (together <= nearby.high + 1e-12)).all())
    for i in range(3):
        loss = [-models[i].logits(z).log_softmax(-1).gather(1, labels[i][:, None]) for z in (x[i], together[i])]
        assert bool((loss[1] >= loss[0]).all())


def test_slopes_go_through_the_worst_inputs() -> None:
    """dL/dw at fixed worst inputs is that of the maximum (Danskin), against central differences with new searches."""
    of = bed(0)
    goals, service = of.goals(of.targets(3)), opened(of, FirstOrder())
    nearby = Perturbation(radius=0.1, steps=30).within(of.task.records.x)
    box = WhiteBoxObjective(service, goals, of.attacker().reference, generator(0, "v"), 1, shown=nearby.worst)
    objective, owner = RobustnessObjective(), torch.arange(3)
    weights = torch.full((3, 300), 0.03, dtype=torch.float64)
    slopes = box.slopes(weights, objective, service.unlearn)
    direction = torch.randn(3, 300, generator=generator(0, "d"), dtype=torch.float64)
    ends = [objective.loss(box.after(weights + sign * 1e-6 * direction, owner)) for sign in (1, -1)]
    torch.testing.assert_close((slopes * direction).sum(1), (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(objective.loss(box.now()), objective.loss(box.predicted(box.start(weights), owner)))
