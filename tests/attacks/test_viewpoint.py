from __future__ import annotations

from functools import partial

import pytest
import torch

from attacks.attack import Aim
from attacks.viewpoint import Viewpoint
from data.errors import UserError
from data.randomness import generator
from models.mlp import MLP
from models.training import Training
from tests.attacks.checks import bed, opened
from unlearning.procedure import Task
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.service import OpenService


def view(samples: int = 1, count: int = 3) -> Viewpoint:
    of = bed(0)
    return Viewpoint(opened(of), of.aims(of.targets(count), 1), of.attacker().reference, generator(0, "v"), samples)


def test_now_is_the_victims_view() -> None:
    of, seen = bed(0), view()
    now, reference = seen.now(), of.attacker().reference
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
    of, seen = bed(0), view()
    rows = torch.zeros(2, 300, dtype=torch.float64)
    rows[0, :10], rows[1, 20:50] = 1, 1
    outlook = seen.after(rows, torch.tensor([2, 0]))
    models = Retrain().forget(of.task, of.victim, rows, of.seed)
    for row, target in enumerate((of.targets(3)[2], of.targets(3)[0])):
        expected = models[row].logits(of.test.x[target : target + 1]).log_softmax(-1)
        assert (outlook.log_p[row, 0] - expected).abs().max() < 1e-10
    assert torch.equal(outlook.labels, seen.labels[[2, 0]])
    assert seen.service.meter.operator_calls == 2


def test_reference_loss_survives_a_certain_and_wrong_victim() -> None:
    """In float32 exp(-200) is 0; the reference loss must not become infinite and switch stealth off."""
    of = bed(0)
    data = of.task.records.to(dtype=torch.float32)
    task = Task(data, of.task.build, of.task.training)
    victim = of.victim
    sure = type(victim)(victim.module, {n: 500 * v.float() for n, v in victim.parameters.items()}, {})
    aims = [Aim(of.test.x[:1].float(), torch.zeros(1).long(), 1)]
    reference = of.attacker().reference.to(dtype=torch.float32)
    seen = Viewpoint(OpenService(task, SecondOrder(), (sure,), (0,)), aims, reference, generator(0, "v"), 1)
    assert 50 < float(seen.reference_loss) < float("inf")


def test_dropout_masks_are_drawn_once() -> None:
    of = bed(0)
    build = partial(MLP, shape=(10,), classes=3, widths=(8,), dropout=0.3)
    task = Task(of.task.records, build, Training(epochs=2))
    victim = Retrain().learn(task, 0)
    service = OpenService(task, SecondOrder(), (victim,), (0,))
    made = [
        Viewpoint(service, of.aims(of.targets(2)), of.attacker().reference, generator(seed, "v"), 5)
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
    aims = [Aim(of.test.x[:1], torch.zeros(1).long(), 1), Aim(of.test.x[:2], torch.zeros(2).long(), 1)]
    with pytest.raises(UserError, match="equally many targets"):
        Viewpoint(opened(of), aims, of.attacker().reference, generator(0, "v"), 1)
