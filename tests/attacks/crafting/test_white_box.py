from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

import models.passes
from attacks.crafting.attack import AttackGoal
from attacks.crafting.functionals import Confidence
from attacks.crafting.objective import CandidatePredictions, UncertaintyObjective
from attacks.crafting.white_box import WhiteBoxObjective
from data.errors import UserError
from data.randomness import generator
from models.gradients import per_example_gradients
from models.mlp import MLP
from models.solver import Solver
from models.training import Training
from models.victim import forward, unflatten
from tests.attacks.checks import bed, opened
from unlearning.first_order import FirstOrder
from unlearning.procedure import Differentiable, Task
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.service import OpenService


def white_box(samples: int = 1, count: int = 3) -> WhiteBoxObjective:
    of = bed(0)
    return WhiteBoxObjective(
        opened(of), of.goals(of.targets(count), 1), of.attacker().reference, generator(0, "v"), samples
    )


def test_now_is_the_victims_view() -> None:
    of, shown = bed(0), white_box()
    now, reference = shown.now(), of.attacker().reference
    assert now.log_p.shape == (3, 1, 1, 3)
    expected = of.victim.logits(of.test.x[of.targets(3)]).log_softmax(-1)
    assert (now.log_p[:, 0, 0] - expected).abs().max() < 1e-12
    p = of.victim.probabilities(reference.x)
    assert (now.reference[0, 0].exp() - p).abs().max() < 1e-12
    assert torch.equal(now.reference_labels, p.argmax(1))
    loss = torch.nn.functional.cross_entropy(of.victim.logits(reference.x), reference.y)
    assert abs(float(now.reference_loss - loss)) < 1e-12
    assert now.kept().all()


def test_candidates_are_matched_with_their_aims() -> None:
    of, shown = bed(0), white_box()
    rows = torch.zeros(2, 300, dtype=torch.float64)
    rows[0, :10], rows[1, 20:50] = 1, 1
    predictions = shown.after(rows, torch.tensor([2, 0]))
    models = Retrain().forget(of.task, of.victim, rows, of.seed)
    for row, target in enumerate((of.targets(3)[2], of.targets(3)[0])):
        expected = models[row].logits(of.test.x[target : target + 1]).log_softmax(-1)
        assert (predictions.log_p[row, 0] - expected).abs().max() < 1e-10
    assert torch.equal(predictions.labels, shown.labels[[2, 0]])
    assert shown.service.meter.operator_calls == 2


def test_reference_loss_survives_a_certain_and_wrong_victim() -> None:
    """In float32 exp(-200) is 0; the reference loss must not become infinite and switch stealth off."""
    of = bed(0)
    data = of.task.records.to(dtype=torch.float32)
    task = Task(data, of.task.build, of.task.training)
    victim = of.victim
    sure = type(victim)(victim.module, {n: 500 * v.float() for n, v in victim.parameters.items()}, {})
    goals = [AttackGoal(of.test.x[:1].float(), torch.zeros(1).long(), 1)]
    reference = of.attacker().reference.to(dtype=torch.float32)
    shown = WhiteBoxObjective(OpenService(task, SecondOrder(), (sure,), (0,)), goals, reference, generator(0, "v"), 1)
    assert 50 < float(shown.reference_loss) < float("inf")


def test_dropout_masks_are_drawn_once() -> None:
    of = bed(0)
    build = partial(MLP, shape=(10,), classes=3, widths=(8,), dropout=0.3)
    task = Task(of.task.records, build, Training(epochs=2))
    victim = Retrain().learn(task, 0)
    service = OpenService(task, SecondOrder(), (victim,), (0,))
    made = [
        WhiteBoxObjective(service, of.goals(of.targets(2)), of.attacker().reference, generator(seed, "v"), 5)
        for seed in (0, 0, 1)
    ]
    first, same, other = (each.now().log_p for each in made)
    assert first.shape == (2, 5, 1, 3)
    assert torch.equal(first, same)
    assert torch.equal(first, made[0].now().log_p)
    assert not torch.equal(first, other)
    assert first.std(1).max() > 0


def test_aims_of_different_sizes_are_refused() -> None:
    of = bed(0)
    goals = [AttackGoal(of.test.x[:1], torch.zeros(1).long(), 1), AttackGoal(of.test.x[:2], torch.zeros(2).long(), 1)]
    with pytest.raises(UserError, match="equally many targets"):
        WhiteBoxObjective(opened(of), goals, of.attacker().reference, generator(0, "v"), 1)


EXACT = Solver(method="exact", damping=0.01)


@pytest.mark.parametrize(
    ("procedure", "samples"), [(SecondOrder(solver=EXACT), 1), (FirstOrder(), 3), (Retrain(solver=EXACT), 1)]
)
def test_passes_of_any_size_see_the_same(
    procedure: Differentiable, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions after candidates, and slopes through them, with room for a few models or examples at a time."""
    of = bed(0)
    build = partial(MLP, shape=(10,), classes=3, widths=(4,), dropout=0.3)
    task = Task(of.task.records[:50], build, Training(epochs=2))
    victims = tuple(Retrain().learn(task, seed) for seed in range(2))
    service = OpenService(task, procedure, victims, (0, 1))
    goals = of.goals(of.targets(6)[:3]) if samples == 1 else of.goals(of.targets(3))
    objective = UncertaintyObjective(Confidence(), keep=5.0, keep_reference=1.0, kappa=3.0)
    rows = 0.2 * torch.rand(len(goals), len(task.records), generator=generator(0, "w"), dtype=torch.float64)

    def looked() -> list[Tensor]:
        shown = WhiteBoxObjective(service, goals, of.attacker().reference, generator(0, "v"), samples)
        after = shown.after(rows, torch.arange(len(goals)))
        slopes = [shown.slopes(rows, objective, unlearned) for unlearned in (service.unlearn, shown.start)]
        return [after.log_p, after.reference, shown.now().log_p, shown.now().reference, *slopes]

    together = looked()
    monkeypatch.setattr(models.passes, "ACTIVATIONS", 400)  # 23 examples, or 5 models, at a time
    for found, expected in zip(looked(), together, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_slopes_are_those_of_one_graph_over_everything() -> None:
    """dL/dw at w = 0, by autograd through the linear update theta + (rate/n) sum_i w_i g_i."""
    of, procedure = bed(0), FirstOrder(rate=3.0)
    victim, records = of.victim, of.task.records
    service = OpenService(of.task, procedure, (victim,), (0,))
    shown = WhiteBoxObjective(service, of.goals(of.targets(2)), of.attacker().reference, generator(0, "v"), 1)
    objective = UncertaintyObjective(Confidence(), keep=5.0, keep_reference=1.0, kappa=3.0)
    rows = torch.zeros(len(shown.labels), len(records), dtype=torch.float64)
    found = shown.slopes(rows, objective, shown.start)
    gradients = per_example_gradients(victim, records)
    for goal in range(len(rows)):
        w = rows[goal].clone().requires_grad_()
        moved = unflatten(victim.flat() + procedure.rate / len(records) * (w @ gradients), victim.parameters)

        def log_p(x: Tensor, at: dict[str, Tensor] = moved) -> Tensor:
            return forward(victim.module, at, victim.buffers, x).log_softmax(-1)[None, None]

        row = slice(goal, goal + 1)
        candidates = CandidatePredictions(
            log_p=log_p(shown.x[goal]),
            labels=shown.labels[row],
            direction=shown.direction[row],
            reference=log_p(shown.reference.x),
            reference_labels=shown.reference_labels,
            reference_truth=shown.reference.y,
            reference_loss=shown.reference_loss,
        )
        (expected,) = torch.autograd.grad(objective.loss(candidates).sum(), w)
        torch.testing.assert_close(found[goal], expected, rtol=1e-8, atol=1e-12)
