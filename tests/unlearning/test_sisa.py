"""SISA against training from scratch, bit by bit, and against the enumeration of its cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import models.victim
import unlearning.sisa
from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, generator
from models.committee import Committee, constituent
from models.logistic import Logistic
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.training import Training, train
from models.victim import Victim
from unlearning.procedure import Request, Task, as_weights, forget
from unlearning.sisa import Sisa

N, SEED = 43, 5  # no multiple of shards x slices
SISA = Sisa(shards=3, slices=4)
SGD = Training(epochs=5, batch_size=4)
BUILDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Training]] = {
    "sgd": (partial(MLP, shape=(6,), classes=3, widths=[5]), (6,), SGD),
    "adam": (partial(MLP, shape=(6,), classes=3, widths=[5]), (6,), replace(SGD, optimizer="adam", lr=0.01)),
    "dropout": (partial(MLP, shape=(6,), classes=3, widths=[5], dropout=0.3), (6,), SGD),
    "batch_norm": (partial(SmallCNN, shape=(1, 4, 4), classes=3, widths=[2], norm="batch"), (1, 4, 4), SGD),
    "newton": (
        partial(Logistic, shape=(6,), classes=3), (6,), Training(optimizer="newton", epochs=5, weight_decay=0.1)
    ),
}  # fmt: skip


def task(name: str = "sgd", n: int = N) -> Task:
    build, shape, training = BUILDS[name]
    rng = generator(0, "records")
    x = torch.randn(n, *shape, generator=rng, dtype=torch.float64)
    return Task(Examples(x, torch.randint(3, (n,), generator=rng)), build, training)


def tensors(model: Victim) -> dict[str, Tensor]:
    return model.parameters | model.buffers


def same(left: Victim, right: Victim) -> bool:
    return all(torch.equal(value, tensors(right)[name]) for name, value in tensors(left).items())


def at(of: Task, *places: tuple[int, int], nth: int = 0) -> tuple[int, ...]:
    """The position of the `nth` record in each (shard, slice), both from 0."""
    return tuple(int(SISA.assignment(of, SEED)[shard][part][nth]) for shard, part in places)


# Shards and slices


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 30), st.integers(0, 2**63 - 1))
def test_shards_and_slices_are_a_balanced_partition(shards: int, slices: int, spare: int, seed: int) -> None:
    of, sisa = task(n=shards * slices + spare), Sisa(shards=shards, slices=slices)
    found = sisa.assignment(of, seed)
    assert torch.cat([torch.cat(shard) for shard in found]).sort().values.tolist() == list(range(len(of.records)))
    sizes = [sum(map(len, shard)) for shard in found]
    assert max(sizes) - min(sizes) <= 1
    for shard in found:
        assert len(shard) == slices
        assert 1 <= min(map(len, shard)) <= max(map(len, shard)) <= min(map(len, shard)) + 1


def test_the_assignment_depends_on_the_seed_and_not_on_the_content() -> None:
    of = task()
    other = replace(of, records=Examples(of.records.x.flip(0) + 1, (of.records.y + 1) % 3))
    first, again, fresh = (
        torch.cat([torch.cat(shard) for shard in SISA.assignment(each, seed)])
        for each, seed in ((of, SEED), (other, SEED), (of, SEED + 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, fresh)
    assert not torch.equal(first, torch.arange(N))


def test_too_few_records_are_refused_before_training() -> None:
    sisa, of = Sisa(shards=11, slices=4), task()
    for refused in (lambda: sisa.learn(of, 0), lambda: sisa.architecture(of)):
        with pytest.raises(UserError, match=r"unlearning.shards=11 with unlearning.slices=4 needs at least 44 .* 43"):
            refused()
    assert Sisa(shards=43, slices=1).assignment(of, 0)


# Learning


def test_a_constituent_learns_its_shard_slice_by_slice() -> None:
    """Constituent 1 by hand: four calls of `train`, each on one slice more."""
    of = task()
    victim = SISA.learn(of, SEED)
    shard, models = SISA.assignment(of, SEED)[1], None
    for stage in range(4):
        seen = torch.cat(shard[: stage + 1])
        seed = derive(SEED, "shard", 1, "stage", stage)
        models = train(of.build, of.records[seen], replace(SGD, epochs=2), [seed], start=models)  # 2/5 of 5 epochs
    assert models is not None
    for name, value in constituent(victim.parameters, 1).items():
        assert torch.equal(value, models[0].parameters[name])
    assert (constituent(victim.parameters, 0)["head.weight"] - models[0].parameters["head.weight"]).abs().max() > 1e-2


def test_a_victim_is_a_committee_in_eval_mode() -> None:
    of = task("batch_norm")
    victim = SISA.learn(of, SEED)
    assert isinstance(victim.module, Committee)
    assert not any(module.training for module in victim.module.modules())
    built = SISA.architecture(of)()
    assert list(victim.parameters) == [name for name, _ in built.named_parameters()]
    assert set(victim.buffers) == {name for name, _ in built.named_buffers()}
    assert built.weights == (1, 1, 1)
    assert Sisa(shards=3, weighted=True).architecture(of)().weights == (15, 14, 14)


@pytest.mark.parametrize(("epochs", "slices", "each"), [(20, 4, 8), (20, 1, 20), (9, 2, 6), (5, 3, 2), (1, 9, 1)])
def test_epochs_of_a_stage(epochs: int, slices: int, each: int) -> None:
    assert Sisa(slices=slices).epochs(Training(epochs=epochs)) == each


# Forgetting


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("places", [[(1, 0)], [(1, 3)], [(0, 2), (2, 1), (2, 3)]], ids=["first", "last", "several"])
def test_equals_training_from_scratch_without_the_records_bitwise(name: str, places: list[tuple[int, int]]) -> None:
    """With the learning seed; constituents that are not touched stay as they are."""
    of = task(name)
    victim, request = SISA.learn(of, SEED), Request(at(of, *places))
    found = forget(SISA, of, victim, request, SEED)
    assert same(found, SISA.learn(of.without(request), SEED))
    for k in range(3):
        before, after = (constituent(tensors(model), k) for model in (victim, found))
        unchanged = all(torch.equal(value, after[key]) for key, value in before.items())
        assert unchanged == (k not in {shard for shard, _ in places})
    assert found.history is victim.history


def test_the_content_of_deleted_records_does_not_matter() -> None:
    """The deleted records may hold any other finite values."""
    for name in ("sgd", "batch_norm"):
        of = task(name)
        request = Request(at(of, (0, 1), (1, 0)))
        x, y = of.records.x.clone(), of.records.y.clone()
        x[list(request.indices)], y[list(request.indices)] = 7.0, 0
        other = replace(of, records=Examples(x, y))
        found, expected = (forget(SISA, each, SISA.learn(each, SEED), request, SEED) for each in (of, other))
        assert same(found, expected)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_requests_in_sequence_are_one_request(order: list[int]) -> None:
    """An early slice after a late one, and the reverse, of the same and of other shards."""
    of = task()
    victim = SISA.learn(of, SEED)
    parts = [at(of, (1, 3), (0, 1)), at(of, (1, 0)), at(of, (1, 2), (2, 2))]
    model, now = victim, of
    for i in order:
        model, now = forget(SISA, now, model, Request(parts[i]), SEED), now.without(Request(parts[i]))
    assert same(model, forget(SISA, of, victim, Request(sum(parts, ())), SEED))
    assert same(model, SISA.learn(now, SEED))


def test_learning_without_records_and_then_forgetting_more() -> None:
    of = task()
    first, second = Request(at(of, (0, 2))), Request(at(of, (0, 3), (1, 1)))
    without = of.without(first)
    found = forget(SISA, without, SISA.learn(without, SEED), second, SEED)
    assert same(found, SISA.learn(without.without(second), SEED))


@pytest.mark.parametrize("name", ["sgd", "dropout", "batch_norm", "newton"])
def test_rows_together_are_rows_one_by_one(name: str) -> None:
    """Rows restart at different stages of the same shard; rounding of a stack stays far below 1e-9 in 40 steps."""
    of = task(name)
    victim = SISA.learn(of, SEED)
    places: list[list[tuple[int, int]]] = [[(1, 2)], [(1, 0)], [], [(1, 2), (0, 3)], [(2, 0), (1, 3)], [(1, 0)]]
    deleted = as_weights([Request(at(of, *each, nth=0)) for each in places], of.records)
    deleted[5] *= 0.5  # a fraction of a record
    together = SISA.forget(of, victim, deleted, 8)
    for j in range(len(places)):
        alone = SISA.forget(of, victim, deleted[j : j + 1], 8)[0]
        for key, value in tensors(together[j]).items():
            assert (value - tensors(alone)[key]).abs().max() < 1e-9, key
    assert same(together[2], victim)
    assert not same(together[5], together[1])


def test_another_seed_draws_the_replayed_stages_anew() -> None:
    of = task()
    victim, request = SISA.learn(of, SEED), Request(at(of, (1, 2), (2, 0)))
    found, other = (forget(SISA, of, victim, request, seed) for seed in (SEED, SEED + 1))
    for k, unchanged in ((0, True), (1, False), (2, False)):
        parts = [torch.cat([v.flatten() for v in constituent(m.parameters, k).values()]) for m in (found, other)]
        assert torch.equal(*parts) == unchanged
    assert torch.equal(SISA.restarts(of, other, torch.ones(1, N)), torch.zeros(1, 3, dtype=torch.long))
    assert same(other, forget(SISA, of, victim, request, SEED + 1))


def test_leaves_the_victim_and_ignores_the_copy() -> None:
    of = task("batch_norm")
    victim = SISA.learn(of, SEED)
    kept = {name: value.clone() for name, value in (tensors(victim) | victim.history).items()}
    flags = [(module.training, p.requires_grad) for module in victim.module.modules() for p in module.parameters()]
    deleted = as_weights([Request(at(of, (0, 0))), Request(at(of, (1, 2)))], of.records)
    copies = Examples(of.records.x + 1, of.records.y)
    found = SISA.forget(of, victim, deleted, SEED, copies)
    assert torch.equal(found.flat(), SISA.forget(of, victim, deleted, SEED).flat())
    assert all(torch.equal(value, kept[name]) for name, value in (tensors(victim) | victim.history).items())
    assert flags == [(m.training, p.requires_grad) for m in victim.module.modules() for p in m.parameters()]


# Cost


@pytest.mark.parametrize("places", [[(1, 0)], [(1, 3)], [(0, 2), (2, 1), (2, 3)], []])
def test_sample_passes_are_those_that_training_makes(
    places: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function against a count of what `forget` trains on."""
    of, passes = task(), [0]
    victim = SISA.learn(of, SEED)

    def counted(build: Any, records: Examples, training: Training, seeds: list[int], *rest: Any) -> Any:
        passes[0] += training.epochs * len(records) * len(seeds)
        return train(build, records, training, seeds, *rest)

    monkeypatch.setattr(unlearning.sisa, "train", counted)
    deleted = as_weights([Request(at(of, *places))], of.records)
    SISA.forget(of, victim, deleted, SEED)
    assert SISA.sample_passes(of, victim, deleted).tolist() == passes


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 5), st.integers(1, 4))
def test_mean_cost_of_one_deletion_is_the_closed_form(shards: int, slices: int, size: int, factor: int) -> None:
    """e0 D (2/3 + 1/(3R)) averaged over slices, where e0 makes the epochs of a stage a whole number."""
    e0, shard = factor * (slices + 1), slices * size
    of = replace(task(n=shards * shard), training=Training(epochs=e0))
    sisa, victim = Sisa(shards=shards, slices=slices), Victim(nn.Identity(), {}, {}, {"seed": torch.tensor(SEED)})
    costs = sisa.sample_passes(of, victim, torch.eye(len(of.records))).double()
    assert abs(float(costs.mean()) - e0 * shard * (2 / 3 + 1 / (3 * slices))) < 1e-9 * e0 * shard
    assert int(costs.max()) == e0 * shard  # the first slice costs as much as a shard without slices
    everything, nothing = torch.ones(1, len(of.records)), torch.zeros(1, len(of.records))
    assert sisa.sample_passes(of, victim, everything).item() == e0 * len(of.records)
    assert sisa.sample_passes(of, victim, nothing).item() == 0


def test_cost_counts_what_is_gone() -> None:
    """A late slice costs as much as the earliest one where a record is gone; an untouched shard costs nothing."""
    of = task()
    victim = SISA.learn(of, SEED)
    now = of.without(Request(at(of, (1, 0), (2, 1))))
    late = as_weights([Request(at(of, (1, 3)))], of.records)
    early = as_weights([Request(at(of, (1, 0), nth=1))], of.records)
    assert SISA.restarts(now, victim, late).tolist() == [[4, 0, 4]]
    assert torch.equal(SISA.sample_passes(now, victim, late), SISA.sample_passes(of, victim, early))


# Prediction


@pytest.mark.parametrize("name", ["dropout", "batch_norm"])
@pytest.mark.parametrize("aggregation", ["mean", "vote"])
def test_prediction_is_deterministic(name: str, aggregation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across calls bit by bit; across batch sizes to the rounding of matrix products, with equal labels."""
    of, x = task(name), 3 * task(name, 200).records.x
    victim = replace(SISA, aggregation=aggregation).learn(of, SEED)
    first = victim.logits(x)
    assert torch.equal(first, victim.logits(x))
    monkeypatch.setattr(models.victim, "INFERENCE_ROWS", 7)
    again = victim.logits(x)
    assert torch.equal(again.argmax(-1), first.argmax(-1))
    torch.testing.assert_close(again, first, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(victim.copies(2).logits(x)[1], first, rtol=1e-13, atol=1e-13)


def test_aggregates_the_constituents() -> None:
    of = task()
    for weighted, shares in ((False, (1, 1, 1)), (True, (15, 14, 14))):
        victim = Sisa(shards=3, slices=4, weighted=weighted).learn(of, SEED)
        expected = torch.zeros(N, 3, dtype=torch.float64)
        for k, share in enumerate(shares):
            alone = Victim(of.build(), constituent(victim.parameters, k), {})
            expected += share / sum(shares) * alone.probabilities(of.records.x)
        torch.testing.assert_close(victim.probabilities(of.records.x), expected, rtol=1e-12, atol=1e-14)
