from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from data.examples import Examples
from models.gradients import per_example_gradients
from tests.attacks.checks import bed
from tests.testbed import TRAINING
from unlearning.first_order import FirstOrder
from unlearning.procedure import Request, StateDifferentiable, forget


def test_one_step_up_on_the_submitted_copies() -> None:
    """theta + (rate/n) sum_i grad l(x~_i)."""
    of = bed(0)
    copies = Examples(of.task.records.x[:4] + 0.5, of.task.records.y[:4])
    for request, used in ((Request((0, 1, 2, 3)), of.task.records[:4]), (Request((0, 1, 2, 3), copies), copies)):
        expected = of.victim.flat() + 7 / TRAINING * per_example_gradients(of.victim, used).sum(0)
        assert (forget(FirstOrder(rate=7), of.task, of.victim, request, 0).flat() - expected).abs().max() < 1e-12


def test_linear_in_the_weights() -> None:
    of = bed(0)
    w = torch.rand(1, TRAINING, dtype=torch.float64)
    step = FirstOrder().forget(of.task, of.victim, torch.cat([w, 0.5 * w, 0 * w]), 0).flat() - of.victim.flat()
    assert (step[0] - 2 * step[1]).abs().max() < 1e-12
    assert step[2].abs().max() == 0


def test_the_rate_is_positive_and_finite() -> None:
    for rate in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            FirstOrder(rate=rate)


def test_it_can_be_differentiated_in_the_model_that_it_starts_from() -> None:
    """<q, theta'> by central differences in theta, for two rows of weights; without any, theta' is theta."""
    of, procedure = bed(0), FirstOrder(rate=20.0)
    rng = torch.Generator().manual_seed(0)
    w = torch.rand(2, TRAINING, generator=rng, dtype=torch.float64) * (torch.arange(TRAINING) < 40)
    q = torch.randn(2, len(of.victim.flat()), generator=rng, dtype=torch.float64)
    along = torch.randn(1, len(of.victim.flat()), generator=rng, dtype=torch.float64)
    assert isinstance(procedure, StateDifferentiable)
    slopes = procedure.victim_vjp(of.task, of.victim, w, q)
    sides = [procedure.forget(of.task, of.victim.moved(sign * 1e-5 * along)[0], w, 0).flat() for sign in (1, -1)]
    numeric = ((sides[0] - sides[1]) * q).sum(1) / 2e-5
    assert ((slopes * along).sum(1) - numeric).abs().max() < 1e-7 * numeric.abs().max()
    assert torch.equal(procedure.victim_vjp(of.task, of.victim, 0 * w, q), q)
