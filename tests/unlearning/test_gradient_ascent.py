from __future__ import annotations

import math

import pytest
import torch

import unlearning.gradient_ascent
from data.examples import Examples
from data.randomness import generator
from models.gradients import per_example_gradients
from tests.attacks.checks import bed
from tests.testbed import TRAINING
from unlearning.gradient_ascent import GradientAscent
from unlearning.procedure import Request, forget


def losses(victim, examples: Examples) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return torch.nn.functional.cross_entropy(victim.logits(examples.x), examples.y, reduction="none")


def rows(*requests: range) -> torch.Tensor:
    deleted = torch.zeros(len(requests), TRAINING, dtype=torch.float64)
    for row, request in zip(deleted, requests, strict=True):
        row[list(request)] = 1
    return deleted


@pytest.mark.parametrize("cap", [None, 0.8, 100.0])
def test_equals_a_plain_loop(cap: float | None) -> None:
    of, deleted = bed(0), rows(range(10), range(5, 40), range(0))
    procedure = GradientAscent(steps=12, lr=0.4, loss_cap=cap)
    found = procedure.forget(of.task, of.victim, deleted, 0)
    for i, row in enumerate(deleted):
        victim, examples = of.victim, of.task.records[row.bool()]
        for _ in range(12):
            if len(examples) == 0 or losses(victim, examples).mean() > (cap or math.log(3)):
                break
            victim = victim.moved(0.4 * per_example_gradients(victim, examples).mean(0)[None])[0]
        assert (found[i].flat() - victim.flat()).abs().max() < 1e-10


def test_the_loss_of_the_deleted_rises_and_stops_at_the_cap() -> None:
    of, request = bed(0), Request(tuple(range(20)))
    gone = of.task.records[:20]
    values = [float(losses(of.victim, gone).mean())]
    for steps in (1, 3, 10, 200, 400):
        model = forget(GradientAscent(steps=steps, lr=0.2), of.task, of.victim, request, 0)
        values.append(float(losses(model, gone).mean()))
    assert values == sorted(values)
    assert math.log(3) < values[-1] == values[-2] < math.log(3) + 0.3  # one step beyond the cap at most


def test_the_gradient_is_taken_at_the_submitted_copies() -> None:
    of = bed(0)
    copies = Examples(of.task.records.x[:3] + 1, of.task.records.y[:3])
    found = forget(GradientAscent(steps=1, lr=0.1, loss_cap=50.0), of.task, of.victim, Request((0, 1, 2), copies), 0)
    expected = of.victim.flat() + 0.1 * per_example_gradients(of.victim, copies).mean(0)
    assert (found.flat() - expected).abs().max() < 1e-12


@pytest.mark.parametrize(("steps", "cap"), [(1, None), (7, 50.0), (30, 0.6)], ids=["one", "all", "capped"])
@pytest.mark.parametrize("scale", [1.0, 0.3, 0.0], ids=["whole", "fractional", "nothing"])
def test_dw_equals_central_differences(steps: int, cap: float | None, scale: float) -> None:
    """With L a fixed linear function of the unlearned parameters; the capped climb stops on its way."""
    of, deleted = bed(0), scale * rows(range(6), range(30, 33))
    if scale == 1:
        deleted[:, 100:104] = 0.5  # away from the kink at one whole deletion, and from weights that only grow
    procedure = GradientAscent(steps=steps, lr=0.4, loss_cap=cap)
    q = torch.randn(2, of.victim.flat().numel(), generator=generator(3, "q"), dtype=torch.float64)
    models = procedure.forget(of.task, of.victim, deleted, 0)
    slopes = procedure.request_vjp(of.task, of.victim, models, deleted, q)
    direction = torch.randn(2, TRAINING, generator=generator(4, "w"), dtype=torch.float64) / TRAINING

    def value(step: float) -> torch.Tensor:
        moved = procedure.forget(of.task, of.victim, deleted + step * direction, 0)
        return (moved.flat() * q).sum(1)

    difference = (value(1e-4) - value(-1e-4)) / 2e-4
    assert ((slopes * direction).sum(1) - difference).abs().max() < 1e-6 * difference.abs().max()


def test_dx_equals_central_differences() -> None:
    of, deleted = bed(0), rows(range(6))[0]
    procedure, records = GradientAscent(steps=7, lr=0.4, loss_cap=50.0), of.task.records
    q = torch.randn(of.victim.flat().numel(), generator=generator(3, "q"), dtype=torch.float64)
    slopes = procedure.copies_vjp(of.task, of.victim, deleted, q, records)
    direction = torch.randn(records.x.shape, generator=generator(4, "x"), dtype=torch.float64)

    def value(step: float) -> float:
        copies = Examples(records.x + step * direction, records.y)
        return float(procedure.forget(of.task, of.victim, deleted[None], 0, copies).flat()[0] @ q)

    difference = (value(1e-4) - value(-1e-4)) / 2e-4
    assert abs(float((slopes * direction).sum()) - difference) < 1e-6 * abs(difference)
    assert (slopes[6:] == 0).all()


def test_examples_go_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are deleted, few are in a pass at once, and what comes of it is the same."""
    of, deleted, seen = bed(0), rows(range(7), range(30, 35)), list[int]()
    procedure, records = GradientAscent(steps=3, lr=0.4, loss_cap=50.0), of.task.records
    q = torch.randn(of.victim.flat().numel(), generator=generator(3, "q"), dtype=torch.float64)

    def found() -> list[torch.Tensor]:
        slopes = procedure.copies_vjp(of.task, of.victim, deleted[0], q, records)
        return [procedure.forget(of.task, of.victim, deleted, 0).flat(), slopes]

    whole, original = found(), unlearning.gradient_ascent.losses

    def counted(*given: object) -> torch.Tensor:
        values: torch.Tensor = original(*given)  # type: ignore[arg-type]
        seen.append(values.shape[-1])
        return values

    monkeypatch.setattr(unlearning.gradient_ascent, "losses", counted)
    monkeypatch.setattr(unlearning.gradient_ascent, "CHUNK", 3)
    parts = found()
    assert max(seen) == 3
    assert all((one - other).abs().max() < 1e-12 for one, other in zip(whole, parts, strict=True))
