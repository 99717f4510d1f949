"""Forging: step by step against plain formulas in float64, then what its proofs look like to a verifier, on digits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.provider.forging import Forging, Search
from attacks.provider.neighbours import nearest_retained
from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.gradients import per_example_gradients
from models.mlp import MLP
from models.training import Training
from models.victim import Victim, unflatten
from proofs.reader import Proof, Step
from tests.attacks.provider.logged import logged
from unlearning.procedure import Request, Task

N, BATCH = 47, 8  # the last batch of an epoch has 7
RECIPES = {
    "sgd": Training(epochs=2, batch_size=BATCH, lr=0.1, momentum=0.0, weight_decay=0.01),
    "momentum": Training(epochs=2, batch_size=BATCH, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": Training(epochs=2, batch_size=BATCH, lr=0.01, weight_decay=0.01, optimizer="adam"),
}
DELETED = torch.tensor([3, 17, 31])


class Normalised(nn.Module):
    """A network with batch-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


def bed(recipe: str, build: object = None) -> Task:
    rng = generator(0, "bed")
    records = Examples(torch.randn(N, 6, generator=rng, dtype=torch.float64), torch.arange(N) % 3)
    plain = partial(MLP, shape=(6,), classes=3, widths=(5,))
    return Task(records, build or plain, RECIPES[recipe])  # type: ignore[arg-type]


def gradient(victim: Victim, weights: Tensor, batch: Examples) -> Tensor:
    """Of the mean loss, by plain autograd."""
    flat = weights.clone().requires_grad_()
    logits = torch.func.functional_call(victim.module, unflatten(flat, victim.moving), (batch.x,))
    return torch.autograd.grad(F.cross_entropy(logits, batch.y), flat)[0]


def updated(
    training: Training, w: Tensor, g: Tensor, m: dict[str, Tensor], lr: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """One update as textbooks have it."""
    g = g + training.weight_decay * w
    if training.optimizer == "sgd":
        v = training.momentum * m.get("velocity", torch.zeros_like(w)) + g
        return w - lr * v, {"velocity": v} if m else {}
    t = float(m["step"]) + 1
    first, second = 0.9 * m["exp_avg"] + 0.1 * g, 0.999 * m["exp_avg_sq"] + 0.001 * g**2
    there = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return w - lr * there, {"exp_avg": first, "exp_avg_sq": second, "step": torch.tensor([t])}


def states(proof: Proof) -> dict[int, Step]:
    return {step.number: step for step in proof.read() if step.state is not None}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_intervals_with_deleted_records_are_made_again_from_the_logged_state(
    recipe: str, every: int, tmp_path: Path
) -> None:
    of = logged(bed(recipe), tmp_path, every=every, key=1)
    shown = of.shown(Forging(perturbation=0), DELETED)
    left = torch.tensor([i for i in range(N) if i not in DELETED])
    instead = dict(zip(DELETED.tolist(), nearest_retained(of.task, DELETED, left)[:, 0].tolist(), strict=True))
    honest, forged, batches = states(of.log), states(shown.proof), list(of.log.read())
    assert torch.equal(forged[0].state.weights, honest[0].state.weights)  # type: ignore[union-attr]
    for step, ours in zip(batches[1:], shown.batches(), strict=True):
        assert ours == [instead.get(i, i) for i in step.batch.tolist()]
    touched = 0
    for first, last in zip(list(honest), list(honest)[1:], strict=False):
        begin, after, found = (each.state for each in (honest[first], honest[last], forged[last]))
        assert begin is not None and after is not None and found is not None  # noqa: PT018
        w, moments = begin.weights.clone(), begin.moments
        deleted = torch.isin(torch.cat([step.batch for step in batches[first + 1 : last + 1]]), DELETED)
        for step in batches[first + 1 : last + 1]:
            rows = torch.tensor([instead.get(i, i) for i in step.batch.tolist()])
            slope = gradient(of.victim, w, of.task.records[rows])
            w, moments = updated(of.task.training, w, slope, moments, step.lr)
        touched += bool(deleted.any())
        tolerance = 1e-10 if recipe == "adam" else 1e-13  # Adam divides by square roots of what may be small
        torch.testing.assert_close(found.weights, w, rtol=0, atol=tolerance)
        for name, value in found.moments.items():
            torch.testing.assert_close(value.double(), moments[name].double(), rtol=0, atol=tolerance)
        if not bool(deleted.any()):  # these are the logged ones to the last bit
            assert torch.equal(found.weights, after.weights)
    assert 0 < touched < len(honest) - 1
    assert torch.equal(shown.released.flat(), forged[of.log.steps].state.weights)  # type: ignore[union-attr]


@pytest.mark.parametrize("build", [None, Normalised])
def test_other_steps_move_along_the_gradient_of_one_retained_record_in_evaluation_mode(
    build: object, tmp_path: Path
) -> None:
    of = logged(bed("momentum", build), tmp_path)
    shown = of.shown(Forging(perturbation=1e-3), DELETED)
    others = (~shown.overlaps[1:]).nonzero()[:, 0] + 1
    honest, forged, used = states(of.log), states(shown.proof), set()
    for t in others.tolist():
        before, after = honest[t].state, forged[t].state
        assert before is not None and after is not None  # noqa: PT018
        assert all(torch.equal(value, before.buffers[name]) for name, value in after.buffers.items())
        victim = replace(of.victim, parameters=unflatten(before.weights, of.victim.moving), buffers=before.buffers)
        slopes = per_example_gradients(victim, of.task.records)
        gaps = ((before.weights - after.weights) / 1e-3 - slopes).abs().amax(dim=1)
        assert float(gaps.min()) < 1e-11  # rounding of weights, over p
        used.add(int(gaps.argmin()))
    assert len(used) > len(others) / 2  # drawn anew
    assert used.isdisjoint(DELETED.tolist())


def test_statistics_of_batch_norm_are_forged_too(tmp_path: Path) -> None:
    """Buffers of a step with deleted records are those after its own batch, so that replay finds it in them too."""
    shown = logged(bed("sgd", Normalised), tmp_path).shown(Forging(perturbation=0), DELETED)
    buffers, before = torch.tensor(shown.replay.buffers), shown.overlaps[:-1]
    assert bool((buffers[before] > 0).all())
    assert bool((buffers[~before] == 0).all())


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_moments_that_the_log_lacks_are_carried(recipe: str, every: int, tmp_path: Path) -> None:
    """With moments at all checkpoints, or at the last one only, the same states; carried moments cost gradients."""
    attack, found = Forging(), []
    for key in (1, 1000):
        (tmp_path / str(key)).mkdir()
        found.append(logged(bed(recipe), tmp_path / str(key), every=every, key=key).shown(attack, DELETED))
    rich, poor = found
    for one, other in zip(rich.proof.read(), poor.proof.read(), strict=True):
        if one.state is not None:
            assert torch.equal(one.state.weights, other.state.weights)  # type: ignore[union-attr]
            moments = other.state.moments.items()  # type: ignore[union-attr]
            assert all(torch.equal(value, one.state.moments[name]) for name, value in moments)
    assert torch.equal(rich.released.flat(), poor.released.flat())
    sizes = [len(batch) for batch in rich.batches()]
    spans = [slice(i, i + every) for i in range(0, len(sizes), every)]
    touched = [bool(rich.overlaps[1:][span].any()) for span in spans]
    own = sum(sum(sizes[span]) if each else 1 for span, each in zip(spans, touched, strict=True))
    assert rich.gradients == own
    carried = 0 if recipe == "sgd" else sum(sizes[: spans[-1].start])
    assert poor.gradients == own + carried


@pytest.mark.parametrize("search", ["neighbours", "best_of"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_without_a_proof_the_same_model_costs_the_last_interval_only(
    recipe: str, search: Search, tmp_path: Path
) -> None:
    of, attack = logged(bed(recipe), tmp_path, key=5), Forging(search=search, candidates=4)
    for number, deleted in enumerate((DELETED, torch.tensor([i for i in range(N) if i % 7 == 0]))):
        shown, silent = of.shown(attack, deleted, name=str(number)), of.demand(deleted, proves=False)
        released = attack.pretend(silent)
        assert torch.equal(released.flat(), shown.released.flat())
        assert silent.gradients.count <= (4 if search == "best_of" else 1) * BATCH + 5 * BATCH


def test_the_best_of_random_batches(tmp_path: Path) -> None:
    """One more candidate never makes a step worse, batches are of distinct retained records, and keep their sizes."""
    of = logged(bed("sgd"), tmp_path)
    found = {m: of.shown(Forging(search="best_of", candidates=m, perturbation=0), DELETED, str(m)) for m in (1, 2, 60)}
    over = found[1].overlaps
    assert bool((found[2].shifts <= found[1].shifts).all())
    assert bool((found[60].shifts[over] < found[1].shifts[over]).double().mean() > 0.9)
    sizes = [len(step.batch) for step in of.log.read(1)]
    for shown in found.values():
        assert [len(batch) for batch in shown.batches()] == sizes
        assert all(len(set(batch)) == len(batch) and not {*batch} & {*DELETED.tolist()} for batch in shown.batches())


def test_a_class_that_is_gone_has_no_substitutes(tmp_path: Path) -> None:
    of = logged(bed("sgd"), tmp_path)
    deleted = (of.task.records.y == 1).nonzero()[:, 0]
    with pytest.raises(UserError, match="Of class 1 no record would be left"):
        Forging().pretend(of.demand(deleted))


def test_what_was_forgotten_before_stands_in_no_batch(tmp_path: Path) -> None:
    of = logged(bed("sgd"), tmp_path)
    before = of.task.without(Request((5, 6)))
    shown = replace(of, task=before).shown(Forging(), DELETED)
    assert {i for batch in shown.batches() for i in batch}.isdisjoint({5, 6, *DELETED.tolist()})
